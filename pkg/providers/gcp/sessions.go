package gcp

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/oauth2/google/externalaccount"
	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/exchange"
)

// emailAnnotation is where a service account names the cloud's service account of its pods. Source:
// https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity.
const emailAnnotation = "iam.gke.io/gcp-service-account"

// loginTimeout is how long one request for a token may take.
const loginTimeout = 30 * time.Second

// sessions is a connection, and gives what reads on it are made with: one session for the agent, or one for each service
// account.
type sessions struct {
	settings
	*exchange.Cache[*session]
	conn     *grpc.ClientConn
	client   secretmanagerpb.SecretManagerServiceClient
	http     *http.Client
	accounts providers.ServiceAccounts
}

// session is the token of one identity, and what is known of its rights.
type session struct {
	tokens     oauth2.TokenSource
	noVersions atomic.Bool // to ask for versions was refused: not tried again before the session is renewed
}

func newSessions(s settings, cfg providers.Config, dial connect.Dialer) (*sessions, error) {
	all := &sessions{settings: s, accounts: cfg.ServiceAccounts, http: connect.Client(dial)}
	all.http.Timeout = loginTimeout
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(grpccredentials.NewTLS(nil)),
		grpc.WithDisableRetry(), // package resolve retries
		grpc.WithUserAgent("keywell"),
	}
	target := s.endpoint
	if dial != nil {
		target = "passthrough:///" + target // the dialer looks names up, if it does
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dial(ctx, "tcp", address)
		}))
	}
	if cfg.Identity == providers.AsPod {
		all.Cache = exchange.New(all.login)
	} else {
		tokens, err := all.agentTokens()
		if err != nil {
			return nil, err
		}
		all.Cache = exchange.Fixed(&session{tokens: tokens})
	}
	var err error
	if all.conn, err = grpc.NewClient(target, options...); err != nil {
		return nil, providers.Errorf(providers.Invalid, "connection to %s: %w", s.endpoint, err)
	}
	all.client = secretmanagerpb.NewSecretManagerServiceClient(all.conn)
	return all, nil
}

func (s *sessions) close() {
	_ = s.conn.Close() // it says only that it is closed already
	s.http.CloseIdleConnections()
}

// agentTokens returns the source of tokens for reads as the agent. Nothing is asked for before it is needed, but for
// whether this machine is Google's.
func (s *sessions) agentTokens() (oauth2.TokenSource, error) {
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, s.http) // kept by the source for all its requests
	if s.key == nil {
		found, err := google.FindDefaultCredentials(ctx, scope)
		if err != nil { // its text may quote a file
			return nil, providers.Errorf(providers.Unavailable, "no application default credentials: set GOOGLE_APPLICATION_CREDENTIALS, or the metadata of a service-account key")
		}
		return found.TokenSource, nil
	}
	encoded, err := json.Marshal(s.key)
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "service-account key of the manifest: %w", err)
	}
	made, err := google.JWTConfigFromJSON(encoded, scope)
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "the service-account key of the manifest can't be used")
	}
	return made.TokenSource(ctx), nil
}

// login exchanges the token of q's pod.
func (s *sessions) login(ctx context.Context, q providers.Query) (*session, time.Time, error) {
	email, err := s.emailOf(ctx, q)
	if err != nil {
		return nil, time.Time{}, err
	}
	subject, err := exchange.Token(ctx, q, s.pool.audience)
	if err != nil {
		return nil, time.Time{}, err
	}
	seen := &lastAnswer{next: s.http.Transport}
	client := &http.Client{Transport: seen, CheckRedirect: connect.NeverFollow}
	options := externalaccount.Config{
		Audience: s.pool.provider, SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt", TokenURL: s.pool.tokenURL,
		SubjectTokenSupplier: subjectToken(subject), Scopes: []string{scope},
	}
	if email != "" {
		options.ServiceAccountImpersonationURL = s.pool.iam + "/v1/projects/-/serviceAccounts/" + url.PathEscape(email) + ":generateAccessToken"
	}
	made, err := externalaccount.NewTokenSource(context.WithValue(ctx, oauth2.HTTPClient, client), options)
	if err != nil {
		return nil, time.Time{}, providers.Errorf(providers.Invalid, "workload identity federation of %s/%s can't be used as it is set", q.Caller.Namespace, q.Caller.ServiceAccount)
	}
	token, err := made.Token()
	if err != nil {
		return nil, time.Time{}, failedLogin(ctx, q.Caller, email, seen.failure(err))
	}
	return &session{tokens: oauth2.StaticTokenSource(token)}, token.Expiry, nil
}

// emailOf returns the cloud's service account that the caller's service account names or, if it names none, the manifest;
// empty: the pod is itself in the cloud.
func (s *sessions) emailOf(ctx context.Context, q providers.Query) (string, error) {
	annotations, err := exchange.Annotations(ctx, s.accounts, q)
	if err != nil {
		return "", err
	}
	return orElse(annotations[emailAnnotation], s.pool.email), nil
}

// lastAnswer remembers the last answer of one login, because the library's errors say its status in their text only, with
// the body. A login makes its requests one after the other.
type lastAnswer struct {
	next http.RoundTripper
	resp *http.Response
}

// RoundTrip sends r.
func (l *lastAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	l.resp = resp
	return resp, err
}

// failure returns err as one that has the answer, if that was a refusal.
func (l *lastAnswer) failure(err error) error {
	if l.resp == nil || l.resp.StatusCode < 400 {
		return err
	}
	return &oauth2.RetrieveError{Response: l.resp}
}

// subjectToken is the pod's token.
type subjectToken string

// SubjectToken returns it.
func (t subjectToken) SubjectToken(context.Context, externalaccount.SupplierOptions) (string, error) {
	return string(t), nil
}

// bearer sends a session's token with one call.
type bearer struct{ token string }

// GetRequestMetadata returns the header.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

// RequireTransportSecurity keeps tokens off connections without TLS.
func (bearer) RequireTransportSecurity() bool { return true }

// authorize returns the option that makes a call the session's.
func (s *session) authorize(ctx context.Context) (grpc.CallOption, error) {
	got := make(chan tokenOrError, 1)
	go func() { // the source knows no context of a call; its client gives up by itself
		token, err := s.tokens.Token()
		got <- tokenOrError{token, err}
	}()
	select {
	case g := <-got:
		if g.err != nil {
			return nil, failedLogin(ctx, providers.Caller{}, "", g.err)
		}
		return grpc.PerRPCCredentials(bearer{g.token.AccessToken}), nil
	case <-ctx.Done():
		return nil, failedLogin(ctx, providers.Caller{}, "", ctx.Err())
	}
}

type tokenOrError struct {
	token *oauth2.Token
	err   error
}
