// Package conjurtest is a fake of CyberArk Conjur's REST API over TLS on loopback.
//
// It is strict where Conjur is: access tokens are signed and expire by its own clock, which may differ; service-account tokens
// are verified; who may see, read or list a variable is decided by what was permitted to roles; IDs are escaped, limits are
// kept, and calls that the driver has no business to make are refused. Its answers to refused calls hold the secret that was
// asked for. Failures can be injected, calls are counted: actions are "authn", "authn-jwt", "read", "batch" (whose names have
// commas between them), "list" and "check".
package conjurtest

import (
	"encoding/pem"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/servertest"
)

// Account is the only one.
const Account = "myorg"

// keptVersions is how many versions of a value Conjur keeps.
const keptVersions = 20

// Server is the fake. It is safe for concurrent use.
type Server struct {
	servertest.Record

	URL    string
	CA     string             // PEM
	Issuer *issuertest.Issuer // of the tokens that the authenticator trusts

	mu        sync.Mutex
	key       []byte            // signs access tokens
	keys      map[string]string // login → API key
	subjects  map[string]string // subject of a service account's token → login
	variables map[string]*variable
	grants    []grant
	groups    map[string][]string // group → logins
	revoked   map[string]bool
	issued    []string
	life      time.Duration // of access tokens
	skew      time.Duration // of Conjur's clock
}

type variable struct {
	versions map[int]string
	latest   int
	ttl      time.Duration // of what each read issues; zero: nothing is issued
}

type grant struct {
	role, pattern string
	privileges    []string
}

// NewServer starts a server on loopback that ends with the test.
func NewServer(t testing.TB) *Server { return NewServerAt(t, servertest.Listen(t)) }

// NewServerAt starts a server at a listener, which it takes over.
func NewServerAt(t testing.TB, l net.Listener) *Server {
	s := &Server{
		Issuer: issuertest.New(), key: []byte("key of conjur"), keys: map[string]string{}, subjects: map[string]string{},
		variables: map[string]*variable{}, groups: map[string][]string{}, revoked: map[string]bool{}, life: 8 * time.Minute,
	}
	web := servertest.ServeTLSAt(t, l, s.serve)
	s.URL, s.CA = web.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))
	return s
}

// Host makes a host, or a user, that logs in by an API key, and returns the key.
func (s *Server) Host(login string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[login] = "4p1k3y-of-" + login
	return s.keys[login]
}

// Trust lets service-account tokens with a subject log in.
func (s *Server) Trust(subject, login string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subjects[subject] = login
}

// Member makes a login a member of a group.
func (s *Server) Member(group, login string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[group] = append(s.groups[group], login)
}

// Permit gives a role, a login or a group's name, privileges on the variables that match a pattern of package path;
// "*" is all.
func (s *Server) Permit(role, pattern string, privileges ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grants = append(s.grants, grant{role, pattern, privileges})
}

// Declare makes a variable without a value.
func (s *Server) Declare(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.variables[name] = &variable{versions: map[int]string{}}
}

// Dynamic makes a variable of which each read issues a secret that is valid for ttl: an object whose member data has the number
// of the read.
func (s *Server) Dynamic(name string, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.variables["data/dynamic/"+name] = &variable{ttl: ttl}
}

// Put adds a version to a variable, unless its value is that already, and returns the version's number.
func (s *Server) Put(name, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.variables[name]
	if v == nil {
		v = &variable{versions: map[int]string{}}
		s.variables[name] = v
	}
	if last, found := v.versions[v.latest]; !found || last != value {
		v.latest++
		v.versions[v.latest] = value
		delete(v.versions, v.latest-keptVersions)
	}
	return strconv.Itoa(v.latest)
}

// Delete removes a variable.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.variables, name)
}

// Revoke makes every access token that was issued invalid.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, token := range s.issued {
		s.revoked[token] = true
	}
}

// Life sets how long later access tokens live. Zero: they live for eight minutes and don't say it.
func (s *Server) Life(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life = d
}

// Skew sets how much Conjur's clock is ahead.
func (s *Server) Skew(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = d
}

// roles returns a login and the groups that it is a member of. s.mu is held.
func (s *Server) roles(login string) []string {
	roles := []string{login}
	for group, members := range s.groups {
		if slices.Contains(members, login) {
			roles = append(roles, group)
		}
	}
	return roles
}

// permitted returns which roles have a privilege on a variable; an empty one stands for any. s.mu is held.
func (s *Server) permitted(name, privilege string) []string {
	var roles []string
	for _, g := range s.grants {
		if ok, _ := path.Match(g.pattern, name); (ok || g.pattern == "*") && (privilege == "" || slices.Contains(g.privileges, privilege)) {
			roles = append(roles, g.role)
		}
	}
	return roles
}

// may tells whether a login has a privilege on a variable that exists; an empty one stands for any. s.mu is held.
func (s *Server) may(login, name, privilege string) bool {
	permitted := s.permitted(name, privilege)
	return s.variables[name] != nil && slices.ContainsFunc(s.roles(login), func(role string) bool { return slices.Contains(permitted, role) })
}

// roleID is how Conjur calls a role in full.
func roleID(role string) string {
	if host, ok := strings.CutPrefix(role, "host/"); ok {
		return Account + ":host:" + host
	}
	return Account + ":group:" + role
}
