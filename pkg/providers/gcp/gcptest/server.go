// Package gcptest is a fake of the parts of Google Cloud that the driver uses: Secret Manager (gRPC), the token endpoint of
// service accounts, the Security Token Service, IAM Credentials (HTTPS) and the metadata server (HTTP), on loopback.
//
// It is strict where Google is: assertions and federated tokens are checked, tokens expire, callers do what they were
// allowed, names and page sizes have their forms. Its error messages hold the secret that was asked for. Failures can be
// injected, calls are counted.
package gcptest

import (
	"context"
	"fmt"
	"hash/crc32"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/servertest"
)

// Project is the only one, and Number is what it is called in answers.
const (
	Project = "my-project"
	Number  = "123456789"
)

// Server is the fake. It is safe for concurrent use.
type Server struct {
	servertest.Grants // to principals
	secretmanagerpb.UnimplementedSecretManagerServiceServer

	URL      string             // of Secret Manager
	Login    string             // URL of everything that gives tokens
	Metadata string             // HOST:PORT of the metadata server
	Issuer   *issuertest.Issuer // of the tokens that the pool trusts

	mu      sync.Mutex
	parent  string // of the secrets, with Project
	secrets map[string][]*version
	aliases map[string]int            // "name/alias" → number
	tokens  map[string]string         // token → principal
	keys    map[string]serviceAccount // email → what it is
	calls   []Call
	fault   func(Call) error
	hang    bool
	corrupt bool
	node    string // principal of the metadata server's tokens
	serial  int
}

type version struct {
	data  string
	state secretmanagerpb.SecretVersion_State
}

// Call is one request: of an action such as "AccessSecretVersion", "ListSecrets", "sts", "impersonate", "assertion" or "metadata".
type Call = servertest.Call

// NewServer starts a server that ends with the test.
func NewServer(t testing.TB) *Server { return NewRegion(t, "") }

// NewRegion starts a server for the secrets of one location.
func NewRegion(t testing.TB, location string) *Server {
	s := &Server{
		Issuer: issuertest.New(), parent: "projects/" + Project, secrets: map[string][]*version{}, aliases: map[string]int{},
		tokens: map[string]string{}, keys: map[string]serviceAccount{},
	}
	if location != "" {
		s.parent += "/locations/" + location
	}
	login := servertest.Serve(t, true, s.serveLogin)
	node := servertest.Serve(t, false, s.serveMetadata)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&login.TLS.Certificates[0])))
	secretmanagerpb.RegisterSecretManagerServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	s.URL, s.Login, s.Metadata = "https://"+listener.Addr().String(), login.URL, node.Listener.Addr().String()
	return s
}

// Put adds a version and returns its number.
func (s *Server) Put(name, data string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name] = append(s.secrets[name], &version{data, secretmanagerpb.SecretVersion_ENABLED})
	return strconv.Itoa(len(s.secrets[name]))
}

// Alias calls the newest version by another name.
func (s *Server) Alias(name, alias string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aliases[name+"/"+alias] = len(s.secrets[name])
}

// SetState disables or destroys the newest version.
func (s *Server) SetState(name string, state secretmanagerpb.SecretVersion_State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name][len(s.secrets[name])-1].state = state
}

// Delete removes a secret.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.secrets, name)
}

// Fail asks f about every later call of Secret Manager; nil is no fault.
func (s *Server) Fail(f func(Call) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Hang makes later calls of Secret Manager wait until the client gives up.
func (s *Server) Hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hang = true
}

// Corrupt damages values on their way.
func (s *Server) Corrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corrupt = true
}

// Revoke makes every token that was given invalid.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Calls returns the calls so far with the given action; an empty one stands for all.
func (s *Server) Calls(action string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.calls), func(c Call) bool { return action != "" && c.Action != action })
}

// enter checks who calls and what he may, and counts.
func (s *Server) enter(ctx context.Context, action, name, routing string) error {
	header, _ := metadata.FromIncomingContext(ctx)
	token := strings.TrimPrefix(strings.Join(header.Get("authorization"), ""), "Bearer ")
	s.mu.Lock()
	principal, known := s.tokens[token]
	c := Call{Action: action, Name: name, Principal: principal}
	s.calls = append(s.calls, c)
	fault, hang := s.fault, s.hang
	s.mu.Unlock()
	switch {
	case !known:
		return status.Error(codes.Unauthenticated, "Request had invalid authentication credentials: "+token)
	case !slices.Contains(header.Get("x-goog-request-params"), routing):
		return status.Errorf(codes.InvalidArgument, "routing header %v, want %s", header.Get("x-goog-request-params"), routing)
	case hang:
		<-ctx.Done()
		return ctx.Err()
	case !s.May(c):
		return status.Errorf(codes.PermissionDenied, "Permission denied for %s on %s (or it may not exist)", action, name)
	case fault != nil:
		return fault(c)
	}
	return nil
}

var versionName = regexp.MustCompile(`^(projects/[a-z0-9-]+(?:/locations/[a-z0-9-]+)?)/secrets/([A-Za-z0-9_-]{1,255})/versions/([A-Za-z0-9_-]+)$`)

// find returns a version and its full name.
func (s *Server) find(ctx context.Context, action, full string) (*version, string, error) {
	m := versionName.FindStringSubmatch(full)
	if m == nil {
		return nil, "", status.Error(codes.InvalidArgument, "malformed name "+full)
	}
	if err := s.enter(ctx, action, m[2], "name="+strings.ReplaceAll(full, "/", "%2F")); err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	versions := s.secrets[m[2]]
	number, err := strconv.Atoi(m[3])
	if m[3] == "latest" {
		number = len(versions)
	} else if err != nil {
		number = s.aliases[m[2]+"/"+m[3]]
	}
	if m[1] != s.parent || number < 1 || number > len(versions) {
		return nil, "", status.Errorf(codes.NotFound, "Secret [%s] not found or has no versions.", full)
	}
	name := strings.Replace(s.parent, Project, Number, 1) + "/secrets/" + m[2] + "/versions/" + strconv.Itoa(number)
	return versions[number-1], name, nil
}

// AccessSecretVersion returns the value.
func (s *Server) AccessSecretVersion(ctx context.Context, r *secretmanagerpb.AccessSecretVersionRequest) (*secretmanagerpb.AccessSecretVersionResponse, error) {
	v, name, err := s.find(ctx, "AccessSecretVersion", r.GetName())
	if err != nil {
		return nil, err
	}
	if v.state != secretmanagerpb.SecretVersion_ENABLED {
		return nil, status.Errorf(codes.FailedPrecondition, "Secret Version is in %s state: %s", v.state, v.data)
	}
	data := []byte(v.data)
	sum := int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
	s.mu.Lock()
	if s.corrupt && len(data) > 0 {
		data[0] ^= 1
	}
	s.mu.Unlock()
	return &secretmanagerpb.AccessSecretVersionResponse{Name: name, Payload: &secretmanagerpb.SecretPayload{Data: data, DataCrc32C: &sum}}, nil
}

// GetSecretVersion returns what is known of a version but its value.
func (s *Server) GetSecretVersion(ctx context.Context, r *secretmanagerpb.GetSecretVersionRequest) (*secretmanagerpb.SecretVersion, error) {
	v, name, err := s.find(ctx, "GetSecretVersion", r.GetName())
	if err != nil {
		return nil, err
	}
	return &secretmanagerpb.SecretVersion{Name: name, State: v.state}, nil
}

// ListSecrets lists a page.
func (s *Server) ListSecrets(ctx context.Context, r *secretmanagerpb.ListSecretsRequest) (*secretmanagerpb.ListSecretsResponse, error) {
	if err := s.enter(ctx, "ListSecrets", "", "parent="+strings.ReplaceAll(r.GetParent(), "/", "%2F")); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.GetParent() != s.parent || r.GetPageSize() < 1 || r.GetPageSize() > 25_000 {
		return nil, status.Error(codes.InvalidArgument, "parent or page_size")
	}
	var names []string
	for name := range s.secrets {
		names = append(names, name)
	}
	slices.Sort(names)
	slices.Reverse(names)
	start := 0
	if token := r.GetPageToken(); token != "" {
		if _, err := fmt.Sscanf(token, "at-%d", &start); err != nil || start > len(names) {
			return nil, status.Error(codes.InvalidArgument, "page_token")
		}
	}
	end := min(start+int(r.GetPageSize()), len(names))
	out := &secretmanagerpb.ListSecretsResponse{TotalSize: int32(len(names))} //nolint:gosec // a test's
	for _, name := range names[start:end] {
		out.Secrets = append(out.Secrets, &secretmanagerpb.Secret{Name: strings.Replace(s.parent, Project, Number, 1) + "/secrets/" + name})
	}
	if end < len(names) {
		out.NextPageToken = fmt.Sprintf("at-%d", end)
	}
	return out, nil
}

// give makes a token for a principal.
func (s *Server) give(principal string) (string, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	token := fmt.Sprintf("ya29.token-%d", s.serial)
	s.tokens[token] = principal
	return token, time.Now().Add(time.Hour)
}
