package aws

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	sm "github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/gather"
	"github.com/keywell/keywell/pkg/providers/members"
	"github.com/keywell/keywell/pkg/secret"
)

// SecretsManagerType is Dapr's component type.
const SecretsManagerType = "secretstores.aws.secretmanager"

const (
	batchLimit   = 20  // names in one BatchGetSecretValue
	listPageSize = 100 // names per page of ListSecrets
	stageCurrent = "AWSCURRENT"
)

func secretsManagerProperties() []providers.Property {
	return append(accountProperties(), providers.Property{Name: "multipleKeyValuesPerSecret"}, providers.Property{Name: "nestedSeparator"})
}

// SecretsManager returns the driver for Secrets Manager.
func SecretsManager() providers.Driver { return secretsManager(nil) }

func secretsManagerSelectors() providers.Selectors {
	return providers.Selectors{Version: true, Stage: true}
}

func secretsManager(dial connect.Dialer) providers.Driver {
	return providers.Driver{
		Type:       SecretsManagerType,
		Properties: secretsManagerProperties(),
		MultipleKeyValues: func(cfg providers.Config) bool {
			return cfg.Properties.Decode(secretsManagerProperties()).Truthy("multipleKeyValuesPerSecret", false)
		},
		Identities: []providers.Identity{providers.AsAgent, providers.AsPod},
		Selectors:  secretsManagerSelectors(),
		Open: func(ctx context.Context, cfg providers.Config) (providers.Provider, error) {
			return openSecretsManager(ctx, cfg, dial)
		},
	}
}

func openSecretsManager(ctx context.Context, cfg providers.Config, dial connect.Dialer) (providers.Provider, error) {
	d := cfg.Properties.Decode(secretsManagerProperties())
	s := &secretStore{split: d.Truthy("multipleKeyValuesPerSecret", false), separator: d.String("nestedSeparator", "")}
	a, err := newAccount(d, cfg.Identity)
	if err != nil {
		return nil, err
	}
	c, err := newConnections(ctx, a, dial)
	if err != nil {
		return nil, err
	}
	s.Gate = providers.NewGate(secretsManagerSelectors(), c.http.CloseIdleConnections)
	s.sessions = newSessions(c, cfg, func(credentials aws.CredentialsProvider) *secretSession {
		return newSecretSession(c, credentials)
	})
	return s, nil
}

// secretStore is the Provider of Secrets Manager.
type secretStore struct {
	*providers.Gate
	sessions  *sessions[*secretSession]
	split     bool   // a value that is a JSON object is several fields
	separator string // between the names of nested members; empty: they are not taken apart
}

// secretSession is the clients of one identity, and what is known of its rights.
type secretSession struct {
	clients []*sm.Client // one for each region
	values  *gather.Gatherer[*sm.GetSecretValueOutput]

	noBatch, noDescribe atomic.Bool // refused before: not tried again before the session is renewed
}

func newSecretSession(c *connections, credentials aws.CredentialsProvider) *secretSession {
	s := &secretSession{}
	for _, p := range c.places() {
		s.clients = append(s.clients, sm.NewFromConfig(c.cfg, func(o *sm.Options) {
			o.Credentials, o.Region = credentials, p.region
			if p.endpoint != nil {
				o.BaseEndpoint = p.endpoint
			}
		}))
	}
	s.values = gather.New(batchLimit, s.getAll)
	return s
}

// Fetch reads one version of a secret: its current one, unless q asks for another.
func (s *secretStore) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	if !isSecretName(q.Name) {
		return providers.Payload{}, providers.Errorf(providers.Invalid, "%.100q is neither a name nor an ARN that a secret can have", q.Name)
	}
	session, err := s.sessions.Get(ctx, q)
	if err != nil {
		return providers.Payload{}, err
	}
	if q.Known != "" && session.unchanged(ctx, q) {
		return providers.Payload{Version: q.Known, Unchanged: true}, nil
	}
	var out *sm.GetSecretValueOutput
	if q.Version == "" && q.Stage == "" && q.Known == "" {
		out, err = session.values.Get(ctx, q.Name)
	} else {
		out, err = session.get(ctx, q)
	}
	if err != nil {
		s.sessions.noteError(q, session, err)
		return providers.Payload{}, failed(ctx, "secretsmanager:GetSecretValue", q.Name, err)
	}
	return s.payload(out)
}

// List returns the names of all secrets of the region.
func (s *secretStore) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.Enter(ctx, q); err != nil {
		return nil, err
	}
	session, err := s.sessions.Get(ctx, q)
	if err != nil {
		return nil, err
	}
	names, err := inTurn(ctx, session.clients, listSecrets)
	if err != nil {
		s.sessions.noteError(q, session, err)
		return nil, failed(ctx, "secretsmanager:ListSecrets", "*", err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func listSecrets(ctx context.Context, c *sm.Client) ([]string, error) {
	names := []string{}
	pages := sm.NewListSecretsPaginator(c, &sm.ListSecretsInput{MaxResults: aws.Int32(listPageSize)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, entry := range page.SecretList {
			names = append(names, aws.ToString(entry.Name))
		}
	}
	return names, nil
}

// get reads the version that q asks for.
func (s *secretSession) get(ctx context.Context, q providers.Query) (*sm.GetSecretValueOutput, error) {
	in := &sm.GetSecretValueInput{SecretId: &q.Name, VersionId: optional(q.Version), VersionStage: optional(q.Stage)}
	return inTurn(ctx, s.clients, func(ctx context.Context, c *sm.Client) (*sm.GetSecretValueOutput, error) {
		return c.GetSecretValue(ctx, in)
	})
}

// getAll reads the current versions of names, in one call where it may.
func (s *secretSession) getAll(ctx context.Context, names []string) (map[string]gather.Result[*sm.GetSecretValueOutput], error) {
	one := func(ctx context.Context, name string) (*sm.GetSecretValueOutput, error) {
		return s.get(ctx, providers.Query{Name: name})
	}
	if len(names) == 1 || s.noBatch.Load() {
		return gather.Each(ctx, names, one), nil
	}
	out, err := inTurn(ctx, s.clients, func(ctx context.Context, c *sm.Client) (*sm.BatchGetSecretValueOutput, error) {
		return c.BatchGetSecretValue(ctx, &sm.BatchGetSecretValueInput{SecretIdList: names})
	})
	if denied(err) { // a right of its own, which those who only know Dapr have not granted
		s.noBatch.Store(true)
		return gather.Each(ctx, names, one), nil
	}
	if err != nil {
		return nil, err
	}
	results := byID(names, out)
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, ok := results[name]; return ok })
	for name, r := range gather.Each(ctx, missing, one) {
		results[name] = r
	}
	return results, nil
}

// byID assigns what a batch brought to the names that were asked for. A value says under which name and ARN the secret is
// known, not how it was asked for.
func byID(names []string, out *sm.BatchGetSecretValueOutput) map[string]gather.Result[*sm.GetSecretValueOutput] {
	results := make(map[string]gather.Result[*sm.GetSecretValueOutput], len(names))
	for _, v := range out.SecretValues {
		value := &sm.GetSecretValueOutput{
			ARN: v.ARN, Name: v.Name, VersionId: v.VersionId, SecretString: v.SecretString, SecretBinary: v.SecretBinary,
		}
		for _, name := range names {
			if arn := aws.ToString(v.ARN); name == aws.ToString(v.Name) || name == arn || isPartOf(name, arn) {
				results[name] = gather.Result[*sm.GetSecretValueOutput]{Value: value}
			}
		}
	}
	for _, e := range out.Errors {
		err := &smithy.GenericAPIError{Code: aws.ToString(e.ErrorCode), Message: aws.ToString(e.Message)}
		results[aws.ToString(e.SecretId)] = gather.Result[*sm.GetSecretValueOutput]{Err: err}
	}
	return results
}

// isPartOf tells whether id is arn without the dash and the six characters that Secrets Manager adds.
func isPartOf(id, arn string) bool {
	return strings.HasPrefix(id, "arn:") && len(arn) == len(id)+7 && strings.HasPrefix(arn, id+"-")
}

// unchanged asks whether the version that q wants is the one that it knows. Any doubt is a no: then the value is read.
func (s *secretSession) unchanged(ctx context.Context, q providers.Query) bool {
	if s.noDescribe.Load() {
		return false
	}
	out, err := inTurn(ctx, s.clients, func(ctx context.Context, c *sm.Client) (*sm.DescribeSecretOutput, error) {
		return c.DescribeSecret(ctx, &sm.DescribeSecretInput{SecretId: &q.Name})
	})
	if err != nil {
		s.noDescribe.Store(denied(err))
		return false
	}
	if out.DeletedDate != nil || q.Version != "" && q.Version != q.Known {
		return false
	}
	stages := out.VersionIdsToStages[q.Known]
	if q.Version != "" && q.Stage == "" {
		return len(stages) > 0
	}
	stage := q.Stage
	if stage == "" {
		stage = stageCurrent
	}
	return slices.Contains(stages, stage)
}

// payload takes a value apart, as the manifest says.
func (s *secretStore) payload(out *sm.GetSecretValueOutput) (providers.Payload, error) {
	p := providers.Payload{Version: aws.ToString(out.VersionId)}
	name := aws.ToString(out.Name)
	switch {
	case out.SecretString == nil:
		p.Fields = map[string]secret.Value{name: secret.New(out.SecretBinary)}
	case s.split:
		p.Fields = members.Of(*out.SecretString, s.separator)
	}
	if p.Fields == nil {
		p.Fields = map[string]secret.Value{name: secret.FromString(*out.SecretString)}
	}
	return p, nil
}

// Interface guard.
var _ providers.Lister = (*secretStore)(nil)
