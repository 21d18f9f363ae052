// Package awstest is a fake of the parts of AWS that the drivers use: Secrets Manager and Systems Manager (JSON 1.1), STS
// (Query), IAM Roles Anywhere and the EKS Pod Identity Agent, on one loopback listener.
//
// It is strict where the services are: every signature is computed again, session tokens and web identity tokens are
// checked, a caller may do what it was allowed and nothing else, limits and formats hold, and an unknown action or member
// is refused. Its error messages hold the secret that was asked for, because nobody may repeat them. Failures can be
// injected, calls are counted.
package awstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/servertest"
)

// Region and Account are where everything is.
const (
	Region  = "eu-west-1"
	Account = "123456789012"
)

// Server is the fake. It is safe for concurrent use.
type Server struct {
	servertest.Grants // to users and roles

	URL    string
	Issuer *issuertest.Issuer // of the tokens that STS accepts; nil if that is somebody else

	tokens     Verifier
	mu         sync.Mutex
	region     string
	keys       map[string]key      // access key id → key
	roles      map[string][]string // role ARN → subjects of tokens, or principals, that may assume it
	secrets    map[string]*storedSecret
	parameters map[string][]parameter // name → versions, oldest first
	calls      []Call
	fault      func(Call) *Fault
	skew       time.Duration
	life       time.Duration // of sessions
	serial     int
	anchors    []anchor

	associations map[string]string // subject of a token → role ARN
}

// key is what a caller signs with.
type key struct {
	secret, session string
	principal       string
	expires         time.Time // zero: never
}

// Call is one request, as it was understood.
type Call struct {
	Action    string // such as "secretsmanager:GetSecretValue"
	Names     []string
	Principal string // user name or role ARN; empty for a call without a signature
	Decrypt   bool
}

// Fault is how a call fails. The status is 400 if there is a code only.
type Fault = servertest.Fault

// Verifier checks web identity tokens.
type Verifier interface {
	// Verify returns the subject of a token for audience.
	Verify(token, audience string) (subject string, err error)
}

// NewServer starts a server that ends with the test.
func NewServer(t testing.TB) *Server { return NewRegion(t, Region) }

// NewRegion starts a server for another region than Region.
func NewRegion(t testing.TB, region string) *Server {
	issuer := issuertest.New()
	s := newServer(t, servertest.Listen(t), region, issuer)
	s.Issuer = issuer
	return s
}

// NewAt starts a server at a listener, which it takes over, where STS and EKS trust the tokens that another issuer signs.
func NewAt(t testing.TB, l net.Listener, tokens Verifier) *Server {
	return newServer(t, l, Region, tokens)
}

func newServer(t testing.TB, l net.Listener, region string, tokens Verifier) *Server {
	s := &Server{
		tokens: tokens, region: region, life: time.Hour,
		keys: map[string]key{}, roles: map[string][]string{},
		secrets: map[string]*storedSecret{}, parameters: map[string][]parameter{}, associations: map[string]string{},
	}
	s.URL = servertest.ServeAt(t, l, s.serve).URL
	return s
}

// User makes a user with the access key id and the secret key, who may do what is said with Allow.
func (s *Server) User(name, id, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id] = key{secret: secret, principal: name}
}

// Role makes a role that the subjects of web identity tokens, or the users, may assume, and returns its ARN.
func (s *Server) Role(name string, trusted ...string) string {
	arn := "arn:aws:iam::" + Account + ":role/" + name
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles[arn] = trusted
	return arn
}

// Fail asks f about every later call; nil is no fault.
func (s *Server) Fail(f func(Call) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Skew sets the server's clock apart from the caller's.
func (s *Server) Skew(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = d
}

// ExpireSessions makes the credentials of all sessions that STS gave invalid.
func (s *Server) ExpireSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, k := range s.keys {
		if k.session != "" {
			k.expires = time.Now().Add(-time.Second)
			s.keys[id] = k
		}
	}
}

// Calls returns the calls so far with the given action; an empty one stands for all.
func (s *Server) Calls(action string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.calls), func(c Call) bool { return action != "" && c.Action != action })
}

// failure is an answer that is no success.
type failure struct {
	code, message string
	status        int
}

func (f *failure) Error() string { return f.code }

func refuse(code, format string, args ...any) *failure {
	return &failure{code, fmt.Sprintf(format, args...), http.StatusBadRequest}
}

// serve finds out which service is meant.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	now := time.Now().Add(s.skew)
	s.mu.Unlock()
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	w.Header().Set("x-amzn-RequestId", "request-1")
	service, action, isTarget := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	switch {
	case r.URL.Path == podIdentityPath:
		s.servePodIdentity(w, r)
	case r.Method != http.MethodPost:
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
	case isTarget && r.URL.Path == "/" && r.Header.Get("Content-Type") == "application/x-amz-json-1.1":
		s.serveJSON(w, r, service, action, body, now)
	case r.URL.Path == "/sessions":
		s.serveAnywhere(w, r, body, now)
	case r.URL.Path == "/" && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded"):
		s.serveSTS(w, r, body, now)
	default:
		http.Error(w, "unknown request", http.StatusNotFound)
	}
}

// actions are the JSON actions: how to name and to do them.
func (s *Server) action(target, name string) (service string, do func(c *Call, body []byte) (any, error)) {
	switch target + "." + name {
	case "secretsmanager.GetSecretValue":
		return "secretsmanager", handle(s, s.getSecretValue)
	case "secretsmanager.BatchGetSecretValue":
		return "secretsmanager", handle(s, s.batchGetSecretValue)
	case "secretsmanager.DescribeSecret":
		return "secretsmanager", handle(s, s.describeSecret)
	case "secretsmanager.ListSecrets":
		return "secretsmanager", handle(s, s.listSecrets)
	case "AmazonSSM.GetParameter":
		return "ssm", handle(s, s.getParameter)
	case "AmazonSSM.GetParameters":
		return "ssm", handle(s, s.getParameters)
	case "AmazonSSM.DescribeParameters":
		return "ssm", handle(s, s.describeParameters)
	default:
		return "", nil
	}
}

// handle decodes the input of an action, strictly, and does it.
func handle[In any](s *Server, do func(c *Call, in In) (any, error)) func(*Call, []byte) (any, error) {
	return func(c *Call, body []byte) (any, error) {
		var in In
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			return nil, refuse("SerializationException", "%v", err)
		}
		return do(c, in)
	}
}

func (s *Server) serveJSON(w http.ResponseWriter, r *http.Request, target, name string, body []byte, now time.Time) {
	service, do := s.action(target, name)
	if do == nil {
		answerJSON(w, nil, refuse("UnknownOperationException", "%s.%s", target, name))
		return
	}
	principal, err := s.authenticate(r, body, service, now)
	if err != nil {
		answerJSON(w, nil, err)
		return
	}
	c := &Call{Action: service + ":" + name, Principal: principal}
	s.mu.Lock()
	out, err := do(c, body)
	fault := s.note(*c)
	s.mu.Unlock()
	if fault != nil {
		s.fail(w, r, *fault, fmt.Sprint(out))
		return
	}
	answerJSON(w, out, err)
}

// note counts a call and returns how it fails. s.mu is held.
func (s *Server) note(c Call) *Fault {
	s.calls = append(s.calls, c)
	if s.fault == nil {
		return nil
	}
	return s.fault(c)
}

// fail answers with a fault. The text holds what the answer would have been.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, f Fault, text string) {
	if f.Break(w, r, `{"SecretString":"`, text) {
		return
	}
	if f.Status == 0 {
		f.Status = http.StatusBadRequest
	}
	answerJSON(w, nil, &failure{f.Code, text, f.Status})
}

func answerJSON(w http.ResponseWriter, out any, err error) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if err == nil {
		_ = json.NewEncoder(w).Encode(out)
		return
	}
	f := err.(*failure)
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": f.code, "message": f.message})
}

// may returns an error unless the caller may do its action on name. s.mu is held.
func (s *Server) may(c *Call, name string) error { return s.mayDo(c, c.Action, name) }

func (s *Server) mayDo(c *Call, action, name string) error {
	if s.May(servertest.Call{Action: action, Name: name, Principal: c.Principal}) {
		return nil
	}
	return refuse("AccessDeniedException", "User: %s is not authorized to perform: %s on resource: %s", c.Principal, action, name)
}
