package csiprovider

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/csiprovider/v1alpha1"
)

// Type is the component type of a class. No manifest can have it, because it is no type of a secret store: the agent makes a
// component of each class.
const Type = "secretproviderclass"

// ClassProperty is the property that holds a class, as Class.Encode writes it.
const ClassProperty = "class"

const (
	maxAnswer = 4 << 20 // of a provider, in bytes, as in the Secrets Store CSI driver
	maxFiles  = 1024
)

// Class is what a SecretProviderClass says.
type Class struct {
	Name       string            `json:"name"`
	Provider   string            `json:"provider"`
	Parameters map[string]string `json:"parameters"` // for the provider, which alone understands them
}

// Encode returns c as the value of ClassProperty.
func (c Class) Encode() ([]byte, error) { return json.Marshal(c) }

// Options say where providers are and what they are told.
type Options struct {
	// Directories are searched in their order for the socket of a provider.
	Directories []string
	// Audiences are those of the pod's tokens that providers are given. Empty: they get none.
	Audiences []string
}

// Driver returns the driver for classes.
func Driver(opts Options) providers.Driver {
	return providers.Driver{
		Type:              Type,
		Properties:        []providers.Property{{Name: ClassProperty, Required: true}},
		MultipleKeyValues: func(providers.Config) bool { return true },
		Identities:        []providers.Identity{providers.AsAgent, providers.AsPod},
		PerPod:            true, // a provider is told which pod asks
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			var class Class
			if err := json.Unmarshal(cfg.Properties[ClassProperty].Reveal(), &class); err != nil {
				return nil, providers.Errorf(providers.Invalid, "read the class: %w", err)
			}
			if !providerName.MatchString(class.Provider) {
				return nil, providers.Errorf(providers.Invalid,
					"provider %q is no name of a provider: write up to 30 letters, digits, - and _ in spec.provider of SecretProviderClass %s", class.Provider, class.Name)
			}
			return &store{opts: opts, class: class, asPod: cfg.Identity == providers.AsPod}, nil
		},
	}
}

// providerName is what the Secrets Store CSI driver accepts, but for the empty name. No path can be made of it.
var providerName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,30}$`)

// store is the Provider of one class.
type store struct {
	opts  Options
	class Class
	asPod bool

	mu     sync.Mutex
	conn   *grpc.ClientConn // nil: none
	path   string           // of the socket that conn is for
	closed bool
}

// Fetch has the provider read everything that the class lists.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	switch {
	case ctx.Err() != nil:
		return providers.Payload{}, ctx.Err()
	case q.Version != "" || q.Stage != "" || q.Namespace != "":
		return providers.Payload{}, providers.Errorf(providers.Invalid, "a SecretProviderClass has no versions, stages or namespaces")
	case q.Name != s.class.Name:
		return providers.Payload{}, providers.Errorf(providers.NotFound, "this store has one secret, %q", s.class.Name)
	}
	request, err := s.request(ctx, q)
	if err != nil {
		return providers.Payload{}, err
	}
	client, err := s.client()
	if err != nil {
		return providers.Payload{}, err
	}
	return mount(ctx, client, request)
}

// List returns the one name.
func (s *store) List(ctx context.Context, _ providers.Query) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case s.closed:
		return nil, providers.ErrClosed()
	}
	return []string{s.class.Name}, nil
}

// client returns a client of the provider whose socket is there now. The connection is made by the first call.
func (s *store) client() (v1alpha1.CSIDriverProviderClient, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, providers.ErrClosed()
	}
	path, err := s.socket()
	if err != nil {
		return nil, err
	}
	if s.conn == nil || s.path != path {
		s.leave()
		s.conn, err = grpc.NewClient("unix:"+path, grpc.WithAuthority("localhost"), grpc.WithNoProxy(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: 2 * time.Second}, MinConnectTimeout: time.Second}))
		if err != nil {
			return nil, providers.Errorf(providers.Invalid, "connect to provider %s: %w", s.class.Provider, err)
		}
		s.path = path
	}
	return v1alpha1.NewCSIDriverProviderClient(s.conn), nil
}

// socket returns the path of the provider's socket.
func (s *store) socket() (string, error) {
	for _, dir := range s.opts.Directories {
		path := filepath.Join(dir, s.class.Provider+".sock")
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
			return path, nil
		}
	}
	return "", providers.Errorf(providers.Unavailable, "no provider %s on this node: there is no socket %s.sock in %q", s.class.Provider, s.class.Provider, s.opts.Directories)
}

// leave ends the connection. s.mu is held.
func (s *store) leave() {
	if s.conn != nil {
		_ = s.conn.Close() // calls under way fail, as they would with the provider gone
		s.conn = nil
	}
}

// Close ends the connection.
func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.leave()
	return nil
}

// request is what the provider is told.
func (s *store) request(ctx context.Context, q providers.Query) (*v1alpha1.MountRequest, error) {
	attributes := make(map[string]string, len(s.class.Parameters)+5)
	for name, value := range s.class.Parameters {
		if !strings.HasPrefix(name, keyPrefix) { // a class can't say who the pod is
			attributes[name] = value
		}
	}
	if s.asPod {
		attributes[keyPrefix+"pod.name"] = q.Caller.Pod
		attributes[keyPrefix+"pod.namespace"] = q.Caller.Namespace
		attributes[keyPrefix+"pod.uid"] = q.Caller.PodUID
		attributes[keyPrefix+"serviceAccount.name"] = q.Caller.ServiceAccount
		if len(s.opts.Audiences) > 0 {
			tokens, err := s.tokens(ctx, q)
			if err != nil {
				return nil, err
			}
			attributes[keyPrefix+"serviceAccount.tokens"] = tokens
		}
	}
	encoded, err := json.Marshal(attributes)
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "write the class: %w", err)
	}
	return &v1alpha1.MountRequest{Attributes: string(encoded), Secrets: "{}", TargetPath: nowhere, Permission: permission}, nil
}

const (
	keyPrefix = "csi.storage.k8s.io/" // of the kubelet's volume attributes, which the driver passes on
	// nowhere is the directory that a provider is to write to: providers refuse a request without one, and there is none.
	nowhere    = "/nonexistent/keywell"
	permission = "420" // 0644; the volume's modes count
)

// tokens returns the pod's tokens in the kubelet's form.
func (s *store) tokens(ctx context.Context, q providers.Query) (string, error) {
	if q.Tokens == nil {
		return "", providers.Errorf(providers.Invalid, "%w", providers.ErrNoTokens)
	}
	type token struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expirationTimestamp"`
	}
	all := make(map[string]token, len(s.opts.Audiences))
	for _, audience := range s.opts.Audiences {
		value, expires, err := q.Tokens.Token(ctx, audience)
		if err != nil {
			return "", err
		}
		all[audience] = token{Token: string(value.Reveal()), Expires: expires}
	}
	encoded, err := json.Marshal(all)
	if err != nil {
		return "", errors.New("write the pod's tokens")
	}
	return string(encoded), nil
}
