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
type sessions[S comparable] struct {
	*connections
	*exchange.Cache[S]
	accounts providers.ServiceAccounts
	make     func(aws.CredentialsProvider) S
}

func newSessions[S comparable](c *connections, cfg providers.Config, make func(aws.CredentialsProvider) S) *sessions[S] {
	s := &sessions[S]{connections: c, accounts: cfg.ServiceAccounts, make: make}
	switch {
	case c.podIdentity:
		s.Cache = exchange.New(s.associated)
	case cfg.Identity == providers.AsPod:
		s.Cache = exchange.New(s.assume)
	default:
		s.Cache = exchange.Fixed(make(c.cfg.Credentials))
	}
	return s
}

// noteError gives up credentials that AWS calls expired, so that the next read gets others.
func (s *sessions[S]) noteError(q providers.Query, used S, err error) {
	if !expiredCredentials(err) {
		return
	}
	s.Drop(q, used) // a pod's
	if cache, ok := s.cfg.Credentials.(*aws.CredentialsCache); ok {
		cache.Invalidate() // the agent's
	}
}

// assume exchanges the token of q's pod for credentials of its role.
func (s *sessions[S]) assume(ctx context.Context, q providers.Query) (session S, expires time.Time, _ error) {
	role, _, err := exchange.Role{Accounts: s.accounts, Annotation: roleAnnotation, Property: "assumeRoleArn", Default: s.role}.Of(ctx, q)
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

// fixed are credentials that are replaced as a whole, with their session.
type fixed aws.Credentials

// Retrieve returns them.
func (f fixed) Retrieve(context.Context) (aws.Credentials, error) { return aws.Credentials(f), nil }
