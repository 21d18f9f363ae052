package aws

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/exchange"
)

// roleAnnotation is where a service account names the role of its pods. Source:
// https://docs.aws.amazon.com/eks/latest/userguide/associate-service-account-role.html.
const roleAnnotation = "eks.amazonaws.com/role-arn"

// sessions gives what reads are made with: one session for the agent, or one for each service account.
type sessions[S any] struct {
	*connections
	accounts providers.ServiceAccounts
	make     func(aws.CredentialsProvider) S
	agent    S
	pods     *exchange.Cache[S] // nil: reads are made as the agent
}

func newSessions[S any](c *connections, cfg providers.Config, make func(aws.CredentialsProvider) S) *sessions[S] {
	s := &sessions[S]{connections: c, accounts: cfg.ServiceAccounts, make: make}
	switch {
	case c.podIdentity:
		s.pods = exchange.New(s.associated)
	case cfg.Identity == providers.AsPod:
		s.pods = exchange.New(s.assume)
	default:
		s.agent = make(c.cfg.Credentials)
	}
	return s
}

// of returns the session for q.
func (s *sessions[S]) of(ctx context.Context, q providers.Query) (S, error) {
	if s.pods == nil {
		return s.agent, nil
	}
	return s.pods.Get(ctx, q)
}

// noteError gives up credentials that AWS calls expired, so that the next read gets others.
func (s *sessions[S]) noteError(q providers.Query, err error) {
	if !expiredCredentials(err) {
		return
	}
	if s.pods != nil {
		s.pods.Drop(q)
	} else if cache, ok := s.cfg.Credentials.(*aws.CredentialsCache); ok {
		cache.Invalidate()
	}
}

// assume exchanges the token of q's pod for credentials of its role.
func (s *sessions[S]) assume(ctx context.Context, q providers.Query) (session S, expires time.Time, _ error) {
	role, err := s.roleOf(ctx, q.Caller)
	if err != nil {
		return session, expires, err
	}
	token, err := exchange.Token(ctx, q, s.audience)
	if err != nil {
		return session, expires, err
	}
	out, err := s.sts().AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: &role, RoleSessionName: &s.sessionName, WebIdentityToken: &token,
	})
	if err != nil {
		return session, expires, failed(ctx, "sts:AssumeRoleWithWebIdentity", role, err)
	}
	if out.Credentials == nil {
		return session, expires, providers.Errorf(providers.Unavailable, "sts:AssumeRoleWithWebIdentity of %s: no credentials in the answer", role)
	}
	given := aws.Credentials{
		AccessKeyID: aws.ToString(out.Credentials.AccessKeyId), SecretAccessKey: aws.ToString(out.Credentials.SecretAccessKey),
		SessionToken: aws.ToString(out.Credentials.SessionToken), Source: "keywell",
	}
	return s.make(fixed(given)), aws.ToTime(out.Credentials.Expiration), nil
}

// roleOf returns the role that the caller's service account names or, if it names none, the manifest.
func (s *sessions[S]) roleOf(ctx context.Context, caller providers.Caller) (string, error) {
	if s.accounts != nil {
		annotations, err := s.accounts.Annotations(ctx, caller.Namespace, caller.ServiceAccount)
		if err != nil {
			return "", err
		}
		if role := annotations[roleAnnotation]; role != "" {
			return role, nil
		}
	}
	if s.role == "" {
		return "", providers.Errorf(providers.Denied, "no role for service account %s/%s: %s", caller.Namespace, caller.ServiceAccount, s.remedy())
	}
	return s.role, nil
}

func (s *sessions[S]) remedy() string {
	if s.accounts == nil {
		return "set assumeRoleArn in the store's metadata, or let the agent read service accounts for their annotation " + roleAnnotation
	}
	return "annotate it with " + roleAnnotation + ", or set assumeRoleArn in the store's metadata"
}

// fixed are credentials that are replaced as a whole, with their session.
type fixed aws.Credentials

// Retrieve returns them.
func (f fixed) Retrieve(context.Context) (aws.Credentials, error) { return aws.Credentials(f), nil }
