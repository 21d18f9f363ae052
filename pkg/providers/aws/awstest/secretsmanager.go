package awstest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// storedSecret is a secret with its versions, oldest first.
type storedSecret struct {
	name, arn string
	versions  []*version
}

type version struct {
	id     string
	value  string
	binary bool
	stages []string
}

// PutSecret writes a new current version of a secret and returns its id. A value that is no text is SecretBinary.
func (s *Server) PutSecret(name, value string, binary bool) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored := s.secrets[name]
	s.serial++
	if stored == nil {
		stored = &storedSecret{name: name, arn: fmt.Sprintf("arn:aws:secretsmanager:%s:%s:secret:%s-%06d", s.region, Account, name, s.serial)}
		s.secrets[name] = stored
	}
	for _, v := range stored.versions {
		switch {
		case slices.Contains(v.stages, "AWSCURRENT"):
			v.stages = []string{"AWSPREVIOUS"}
		case slices.Contains(v.stages, "AWSPREVIOUS"):
			v.stages = nil
		}
	}
	v := &version{id: fmt.Sprintf("%08d-0000-4000-8000-000000000000", s.serial), value: value, binary: binary, stages: []string{"AWSCURRENT"}}
	stored.versions = append(stored.versions, v)
	return v.id
}

// StageSecret gives the current version one more stage.
func (s *Server) StageSecret(name, stage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.secrets[name].versions[len(s.secrets[name].versions)-1]
	v.stages = append(v.stages, stage)
}

// ARN returns the ARN of a secret.
func (s *Server) ARN(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secrets[name].arn
}

// DeleteSecret removes a secret.
func (s *Server) DeleteSecret(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.secrets, name)
}

// find returns a secret by its name, its ARN or its ARN without the suffix. s.mu is held.
func (s *Server) find(id string) *storedSecret {
	for _, stored := range s.secrets {
		if id == stored.name || id == stored.arn || strings.HasPrefix(id, "arn:") && id == stored.arn[:len(stored.arn)-7] {
			return stored
		}
	}
	return nil
}

func notFound() error {
	return refuse("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
}

// value is an entry of GetSecretValue's and BatchGetSecretValue's answers.
func (stored *storedSecret) value(v *version) map[string]any {
	out := map[string]any{"ARN": stored.arn, "Name": stored.name, "VersionId": v.id, "VersionStages": v.stages, "CreatedDate": 1.7e9}
	if v.binary {
		out["SecretBinary"] = []byte(v.value)
	} else {
		out["SecretString"] = v.value
	}
	return out
}

// lookup returns the secret that the caller may use, by the name under which grants are given.
func (s *Server) lookup(c *Call, action, id string) (*storedSecret, error) {
	if id == "" || len(id) > 2048 {
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'secretId' failed to satisfy constraint")
	}
	stored, name := s.find(id), id
	if stored != nil {
		name = stored.name
	}
	if err := s.mayDo(c, action, name); err != nil {
		return nil, err
	}
	if stored == nil {
		return nil, notFound()
	}
	return stored, nil
}

func (s *Server) getSecretValue(c *Call, in struct{ SecretId, VersionId, VersionStage string }) (any, error) { //nolint:revive // AWS' spelling
	c.Names = []string{in.SecretId}
	stored, err := s.lookup(c, c.Action, in.SecretId)
	if err != nil {
		return nil, err
	}
	if in.VersionId != "" && (len(in.VersionId) < 32 || len(in.VersionId) > 64) {
		return nil, refuse("InvalidParameterException", "Invalid length for parameter VersionId")
	}
	if in.VersionId == "" && in.VersionStage == "" {
		in.VersionStage = "AWSCURRENT"
	}
	for _, v := range stored.versions {
		if (in.VersionId == "" || v.id == in.VersionId) && (in.VersionStage == "" || slices.Contains(v.stages, in.VersionStage)) {
			return stored.value(v), nil
		}
	}
	return nil, notFound()
}

func (s *Server) batchGetSecretValue(c *Call, in struct{ SecretIdList []string }) (any, error) { //nolint:revive // AWS' spelling
	c.Names = in.SecretIdList
	if n := len(in.SecretIdList); n == 0 || n > 20 {
		return nil, refuse("ValidationException", "SecretIdList has %d members", n)
	}
	if err := s.may(c, "*"); err != nil {
		return nil, err
	}
	values, failures := []any{}, []any{}
	for _, id := range in.SecretIdList {
		stored, err := s.lookup(c, "secretsmanager:GetSecretValue", id)
		if err != nil {
			f := err.(*failure)
			failures = append(failures, map[string]string{"SecretId": id, "ErrorCode": f.code, "Message": f.message})
			continue
		}
		values = append(values, stored.value(stored.versions[len(stored.versions)-1]))
	}
	slices.Reverse(values) // no order is promised
	return map[string]any{"SecretValues": values, "Errors": failures}, nil
}

func (s *Server) describeSecret(c *Call, in struct{ SecretId string }) (any, error) { //nolint:revive // AWS' spelling
	c.Names = []string{in.SecretId}
	stored, err := s.lookup(c, c.Action, in.SecretId)
	if err != nil {
		return nil, err
	}
	stages := map[string][]string{}
	for _, v := range stored.versions {
		if len(v.stages) > 0 {
			stages[v.id] = v.stages
		}
	}
	return map[string]any{"ARN": stored.arn, "Name": stored.name, "VersionIdsToStages": stages, "CreatedDate": 1.7e9}, nil
}

func (s *Server) listSecrets(c *Call, in struct {
	MaxResults int
	NextToken  string
}) (any, error) {
	if err := s.may(c, "*"); err != nil {
		return nil, err
	}
	if in.MaxResults < 1 || in.MaxResults > 100 {
		return nil, refuse("ValidationException", "MaxResults %d", in.MaxResults)
	}
	var names []string
	for name := range s.secrets {
		names = append(names, name)
	}
	page, next, err := cut(names, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	entries := []any{}
	for _, name := range page {
		entries = append(entries, map[string]any{"Name": name, "ARN": s.secrets[name].arn})
	}
	out := map[string]any{"SecretList": entries}
	if next != "" {
		out["NextToken"] = next
	}
	return out, nil
}

// cut returns a page of names, which are listed newest names first.
func cut(names []string, size int, token string) (page []string, next string, _ error) {
	slices.Sort(names)
	slices.Reverse(names)
	start := 0
	if token != "" {
		n, err := strconv.Atoi(strings.TrimPrefix(token, "page-"))
		if err != nil || n > len(names) {
			return nil, "", refuse("InvalidNextTokenException", "%s", token)
		}
		start = n
	}
	end := min(start+size, len(names))
	if end < len(names) {
		next = "page-" + strconv.Itoa(end)
	}
	return names[start:end], next, nil
}
