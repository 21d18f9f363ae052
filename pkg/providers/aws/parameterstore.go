package aws

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/gather"
	"github.com/keywell/keywell/pkg/secret"
)

// ParameterStoreType is Dapr's component type.
const ParameterStoreType = "secretstores.aws.parameterstore"

const (
	parametersLimit    = 10 // names in one GetParameters
	parametersPageSize = 50 // names per page of DescribeParameters
)

func parameterStoreProperties() []providers.Property {
	return append(accountProperties(), providers.Property{Name: "prefix"})
}

// ParameterStore returns the driver for Systems Manager Parameter Store.
func ParameterStore() providers.Driver { return parameterStore(nil) }

func parameterStoreSelectors() providers.Selectors { return providers.Selectors{Version: true} }

func parameterStore(dial connect.Dialer) providers.Driver {
	return providers.Driver{
		Type:       ParameterStoreType,
		Properties: parameterStoreProperties(),
		Identities: []providers.Identity{providers.AsAgent, providers.AsPod},
		Selectors:  parameterStoreSelectors(),
		Open: func(ctx context.Context, cfg providers.Config) (providers.Provider, error) {
			return openParameterStore(ctx, cfg, dial)
		},
	}
}

func openParameterStore(ctx context.Context, cfg providers.Config, dial connect.Dialer) (providers.Provider, error) {
	d := cfg.Properties.Decode(parameterStoreProperties())
	s := &parameters{prefix: d.String("prefix", "")}
	a, err := newAccount(d, cfg.Identity)
	if err != nil {
		return nil, err
	}
	c, err := newConnections(ctx, a, dial)
	if err != nil {
		return nil, err
	}
	s.Gate = providers.NewGate(parameterStoreSelectors(), c.http.CloseIdleConnections)
	s.sessions = newSessions(c, cfg, func(credentials aws.CredentialsProvider) *parameterSession {
		return newParameterSession(c, credentials)
	})
	return s, nil
}

// parameters is the Provider of Parameter Store.
type parameters struct {
	*providers.Gate
	sessions *sessions[*parameterSession]
	prefix   string // before every name
}

// parameterSession is the clients of one identity, and what is known of its rights.
type parameterSession struct {
	clients   []*ssm.Client // one for each region
	decrypted *gather.Gatherer[types.Parameter]
	plain     *gather.Gatherer[types.Parameter] // secure strings as they are stored, for their versions
}

func newParameterSession(c *connections, credentials aws.CredentialsProvider) *parameterSession {
	s := &parameterSession{}
	for _, p := range c.places() {
		s.clients = append(s.clients, ssm.NewFromConfig(c.cfg, func(o *ssm.Options) {
			o.Credentials, o.Region = credentials, p.region
			if p.endpoint != nil {
				o.BaseEndpoint = p.endpoint
			}
		}))
	}
	s.decrypted = s.gatherer(true)
	s.plain = s.gatherer(false)
	return s
}

// Fetch reads a parameter, decrypted. The payload's Version is the version's number.
func (s *parameters) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	name, err := s.nameOf(q)
	if err != nil {
		return providers.Payload{}, err
	}
	session, err := s.sessions.Get(ctx, q)
	if err != nil {
		return providers.Payload{}, err
	}
	p, err := session.read(ctx, name, q.Known)
	if err != nil {
		s.sessions.noteError(q, session, err)
		return providers.Payload{}, failed(ctx, "ssm:GetParameter", name, err)
	}
	version := strconv.FormatInt(p.Version, 10)
	if q.Known != "" && version == q.Known {
		return providers.Payload{Version: version, Unchanged: true}, nil
	}
	field := strings.TrimPrefix(aws.ToString(p.Name), s.prefix)
	return providers.Payload{
		Fields:  map[string]secret.Value{field: secret.FromString(aws.ToString(p.Value))},
		Version: version,
	}, nil
}

// nameOf returns the parameter's name with q's version, as GetParameter takes it.
func (s *parameters) nameOf(q providers.Query) (string, error) {
	name := s.prefix + q.Name
	if q.Name == "" || !isParameterName(name) {
		return "", providers.Errorf(providers.Invalid, "%.100q is neither a name nor an ARN that a parameter can have (a version is asked for with version_id)", name)
	}
	if q.Version == "" {
		return name, nil
	}
	if !isParameterVersion(q.Version) {
		return "", providers.Errorf(providers.Invalid, "%.100q is neither the number nor the label of a version", q.Version)
	}
	return name + ":" + q.Version, nil
}

// List returns the names of all parameters that begin with the prefix, without it.
func (s *parameters) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.Enter(ctx, q); err != nil {
		return nil, err
	}
	session, err := s.sessions.Get(ctx, q)
	if err != nil {
		return nil, err
	}
	names, err := inTurn(ctx, session.clients, s.list)
	if err != nil {
		s.sessions.noteError(q, session, err)
		return nil, failed(ctx, "ssm:DescribeParameters", "*", err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (s *parameters) list(ctx context.Context, c *ssm.Client) ([]string, error) {
	in := &ssm.DescribeParametersInput{MaxResults: aws.Int32(parametersPageSize)}
	if s.prefix != "" {
		in.ParameterFilters = []types.ParameterStringFilter{
			{Key: aws.String("Name"), Option: aws.String("BeginsWith"), Values: []string{s.prefix}},
		}
	}
	names := []string{}
	pages := ssm.NewDescribeParametersPaginator(c, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range page.Parameters {
			if name, ok := strings.CutPrefix(aws.ToString(p.Name), s.prefix); ok && name != "" {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// read reads a parameter. If a version is known, the parameter is not decrypted before it proves to be another.
func (s *parameterSession) read(ctx context.Context, name, known string) (types.Parameter, error) {
	if known != "" {
		p, err := s.plain.Get(ctx, name)
		if err != nil || strconv.FormatInt(p.Version, 10) == known || p.Type != types.ParameterTypeSecureString {
			return p, err
		}
	}
	return s.decrypted.Get(ctx, name)
}

func (s *parameterSession) gatherer(decrypt bool) *gather.Gatherer[types.Parameter] {
	one := func(ctx context.Context, name string) (types.Parameter, error) { return s.get(ctx, name, decrypt) }
	return gather.New(parametersLimit, func(ctx context.Context, names []string) (map[string]gather.Result[types.Parameter], error) {
		if len(names) == 1 {
			return gather.Each(ctx, names, one), nil
		}
		results, err := s.getAll(ctx, names, decrypt)
		if denied(err) { // for one of them, or for the action as such: only one by one it shows
			return gather.Each(ctx, names, one), nil
		}
		return results, err
	})
}

func (s *parameterSession) get(ctx context.Context, name string, decrypt bool) (types.Parameter, error) {
	out, err := inTurn(ctx, s.clients, func(ctx context.Context, c *ssm.Client) (*ssm.GetParameterOutput, error) {
		return c.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: &decrypt})
	})
	if err != nil {
		return types.Parameter{}, err
	}
	if out.Parameter == nil {
		return types.Parameter{}, &smithy.GenericAPIError{Code: "ParameterNotFound"}
	}
	return *out.Parameter, nil
}

// getAll reads parameters in one call. Those that are missing are listed in the answer.
func (s *parameterSession) getAll(ctx context.Context, names []string, decrypt bool) (map[string]gather.Result[types.Parameter], error) {
	out, err := inTurn(ctx, s.clients, func(ctx context.Context, c *ssm.Client) (*ssm.GetParametersOutput, error) {
		return c.GetParameters(ctx, &ssm.GetParametersInput{Names: names, WithDecryption: &decrypt})
	})
	if err != nil {
		return nil, err
	}
	results := make(map[string]gather.Result[types.Parameter], len(names))
	for _, name := range names {
		results[name] = gather.Result[types.Parameter]{Err: &smithy.GenericAPIError{Code: "ParameterNotFound"}}
	}
	for _, p := range out.Parameters {
		for _, name := range []string{aws.ToString(p.Name), aws.ToString(p.ARN)} {
			name += aws.ToString(p.Selector)
			if _, asked := results[name]; asked {
				results[name] = gather.Result[types.Parameter]{Value: p}
			}
		}
	}
	return results, nil
}

// Interface guard.
var _ providers.Lister = (*parameters)(nil)
