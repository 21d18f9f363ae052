// Package vaulttest gives tests a real Vault, and a proxy before it that counts and breaks requests.
package vaulttest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"
)

// binary is the environment variable that names the server of test/vault.
const binary = "KEYWELL_VAULT"

// Server is a real Vault over TLS on loopback, unsealed, that ends with the test process.
type Server struct {
	Addr      string `json:"addr"`
	CA        string `json:"ca"` // PEM
	Token     string `json:"token"`
	UnsealKey string `json:"unseal_key"`

	*api.Client // with the root token
	names       atomic.Int64
	stdin       io.Closer // kept open while the process lives
}

var shared = sync.OnceValues(start)

// Shared returns the one server of the test process, or skips the test where there is no binary. Tests keep apart by
// names (Name).
func Shared(t testing.TB) *Server {
	t.Helper()
	need(t)
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Own returns a server that belongs to the test, for what others must not notice, such as a seal.
func Own(t testing.TB) *Server {
	t.Helper()
	need(t)
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func need(t testing.TB) {
	t.Helper()
	if os.Getenv(binary) == "" {
		t.Skipf("no Vault: %s names no server; make vault-test builds one and runs this", binary)
	}
}

// start runs a server until the process ends: it waits for its standard input, which closes then.
func start() (*Server, error) {
	cmd := exec.Command(os.Getenv(binary))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Vault: %w", err)
	}
	s := &Server{stdin: stdin}
	if err := json.NewDecoder(out).Decode(s); err != nil {
		return nil, fmt.Errorf("wait for Vault to start: %w", err)
	}
	cfg := api.DefaultConfig()
	cfg.Address, cfg.MaxRetries = s.Addr, 0
	if err := cfg.ConfigureTLS(&api.TLSConfig{CACertBytes: []byte(s.CA)}); err != nil {
		return nil, err
	}
	if s.Client, err = api.NewClient(cfg); err != nil {
		return nil, err
	}
	s.SetToken(s.Token)
	return s, nil
}

// Name returns a name that no other test has.
func (s *Server) Name(prefix string) string { return fmt.Sprintf("%s-%d", prefix, s.names.Add(1)) }

// Mount mounts an engine ("kv-v2", "kv", "pki" and so on) under a name of its own, which is returned.
func (s *Server) Mount(t testing.TB, kind string) string {
	t.Helper()
	path := s.Name(kind)
	input := &api.MountInput{Type: kind}
	if kind == "kv-v2" {
		input.Type, input.Options = "kv", map[string]string{"version": "2"}
	}
	if err := s.Sys().Mount(path, input); err != nil {
		t.Fatal(err)
	}
	return path
}

// Auth mounts an auth method under a name of its own, which is returned.
func (s *Server) Auth(t testing.TB, kind string) string {
	t.Helper()
	path := s.Name(kind)
	if err := s.Sys().EnableAuthWithOptions(path, &api.EnableAuthOptions{Type: kind}); err != nil {
		t.Fatal(err)
	}
	return path
}

// Policy writes a policy that allows capabilities on each of paths, in pairs, and returns its name.
func (s *Server) Policy(t testing.TB, paths ...string) string {
	t.Helper()
	name := s.Name("policy")
	s.PutPolicy(t, name, paths...)
	return name
}

// PutPolicy replaces a policy: path, capabilities, path, capabilities…
func (s *Server) PutPolicy(t testing.TB, name string, paths ...string) {
	t.Helper()
	var rules strings.Builder
	for i := 0; i < len(paths); i += 2 {
		fmt.Fprintf(&rules, "path %q { capabilities = [%s] }\n", paths[i], `"`+strings.ReplaceAll(paths[i+1], " ", `","`)+`"`)
	}
	if err := s.Sys().PutPolicy(name, rules.String()); err != nil {
		t.Fatal(err)
	}
}

// NewToken returns a token with the given policies and time to live ("": Vault's default).
func (s *Server) NewToken(t testing.TB, ttl string, policies ...string) string {
	t.Helper()
	created, err := s.Tokens().Create(&api.TokenCreateRequest{Policies: policies, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return created.Auth.ClientToken
}

// Tokens is the client's token auth; Auth, which leads there, is hidden.
func (s *Server) Tokens() *api.TokenAuth { return s.Client.Auth().Token() }

// Put writes to a path and returns what Vault answers.
func (s *Server) Put(t testing.TB, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := s.Logical().Write(path, data)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// Remove deletes a path.
func (s *Server) Remove(t testing.TB, path string) {
	t.Helper()
	if _, err := s.Logical().Delete(path); err != nil {
		t.Fatal(err)
	}
}

// Unseal unseals the server after a seal.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	key, err := hex.DecodeString(s.UnsealKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sys().Unseal(base64.StdEncoding.EncodeToString(key)); err != nil {
		t.Fatal(err)
	}
	for t.Context().Err() == nil { // it serves a moment later
		if _, err := s.Tokens().LookupSelf(); err == nil {
			return
		}
	}
}
