package awstest

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// parameter is one version of a parameter.
type parameter struct {
	kind, value string
	labels      []string
}

var parameterID = regexp.MustCompile(`^(?:arn:aws:ssm:[a-z0-9-]+:\d{12}:parameter)?([A-Za-z0-9_./-]+)(:[A-Za-z0-9_.-]+)?$`)

// PutParameter writes a new version of a parameter (String or SecureString) and returns its number.
func (s *Server) PutParameter(name, kind, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parameters[name] = append(s.parameters[name], parameter{kind: kind, value: value})
	return strconv.Itoa(len(s.parameters[name]))
}

// LabelParameter gives the newest version a label.
func (s *Server) LabelParameter(name, label string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	versions := s.parameters[name]
	versions[len(versions)-1].labels = append(versions[len(versions)-1].labels, label)
}

// DeleteParameter removes a parameter.
func (s *Server) DeleteParameter(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.parameters, name)
}

// readParameter returns a version of a parameter that the caller may read. s.mu is held.
func (s *Server) readParameter(c *Call, id string, decrypt bool) (map[string]any, error) {
	m := parameterID.FindStringSubmatch(id)
	if m == nil || len(id) > 2048 {
		return nil, refuse("ValidationException", "Parameter name: can't be prefixed with \"aws\" or \"ssm\" and must match")
	}
	name, selector := m[1], m[2]
	if err := s.may(c, name); err != nil {
		return nil, err
	}
	versions := s.parameters[name]
	if versions == nil {
		return nil, refuse("ParameterNotFound", "")
	}
	i := len(versions) - 1
	if selector != "" {
		i = slices.IndexFunc(versions, func(p parameter) bool { return slices.Contains(p.labels, selector[1:]) })
		if n, err := strconv.Atoi(selector[1:]); err == nil && n <= len(versions) {
			i = n - 1
		}
		if i < 0 {
			return nil, refuse("ParameterVersionNotFound", "Systems Manager could not find version %s of %s", selector, name)
		}
	}
	value := versions[i].value
	if versions[i].kind == "SecureString" && !decrypt {
		value = base64.StdEncoding.EncodeToString([]byte("encrypted"))
	}
	arn := fmt.Sprintf("arn:aws:ssm:%s:%s:parameter/%s", s.region, Account, strings.TrimPrefix(name, "/"))
	out := map[string]any{"Name": name, "Type": versions[i].kind, "Value": value, "Version": i + 1, "ARN": arn, "LastModifiedDate": 1.7e9}
	if selector != "" {
		out["Selector"] = selector
	}
	return out, nil
}

func (s *Server) getParameter(c *Call, in struct {
	Name           string
	WithDecryption bool
}) (any, error) {
	c.Names, c.Decrypt = []string{in.Name}, in.WithDecryption
	p, err := s.readParameter(c, in.Name, in.WithDecryption)
	if err != nil {
		return nil, err
	}
	return map[string]any{"Parameter": p}, nil
}

func (s *Server) getParameters(c *Call, in struct {
	Names          []string
	WithDecryption bool
}) (any, error) {
	c.Names, c.Decrypt = in.Names, in.WithDecryption
	if n := len(in.Names); n == 0 || n > 10 {
		return nil, refuse("ValidationException", "Names has %d members", n)
	}
	found, invalid := []any{}, []string{}
	for i, name := range in.Names {
		if slices.Contains(in.Names[:i], name) {
			return nil, refuse("ValidationException", "duplicate name %s", name)
		}
		p, err := s.readParameter(c, name, in.WithDecryption)
		switch f, _ := err.(*failure); {
		case err == nil:
			found = append(found, p)
		case f.code == "ParameterNotFound" || f.code == "ParameterVersionNotFound":
			invalid = append(invalid, name)
		default:
			return nil, err
		}
	}
	slices.Reverse(found) // no order is promised
	return map[string]any{"Parameters": found, "InvalidParameters": invalid}, nil
}

func (s *Server) describeParameters(c *Call, in struct {
	MaxResults       int
	NextToken        string
	ParameterFilters []struct {
		Key, Option string
		Values      []string
	}
}) (any, error) {
	if err := s.may(c, "*"); err != nil {
		return nil, err
	}
	if in.MaxResults < 1 || in.MaxResults > 50 {
		return nil, refuse("ValidationException", "MaxResults %d", in.MaxResults)
	}
	prefix := ""
	for _, f := range in.ParameterFilters {
		if f.Key != "Name" || f.Option != "BeginsWith" || len(f.Values) != 1 {
			return nil, refuse("InvalidFilterKey", "%v", f)
		}
		prefix = f.Values[0]
	}
	var names []string
	for name := range s.parameters {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	page, next, err := cut(names, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	entries := []any{}
	for _, name := range page {
		entries = append(entries, map[string]any{"Name": name, "Type": "SecureString", "Version": len(s.parameters[name])})
	}
	out := map[string]any{"Parameters": entries}
	if next != "" {
		out["NextToken"] = next
	}
	return out, nil
}
