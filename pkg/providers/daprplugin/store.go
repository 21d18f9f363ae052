package daprplugin

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	componentsv1pb "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/plugin"
	"github.com/keywell/keywell/pkg/secret"
)

// maxAnswer bounds an answer of a plugin, in bytes: all secrets of a store come in one.
const maxAnswer = 16 << 20

// instanceHeader names the component that a call is for, so that one plugin can serve several.
const instanceHeader = "x-component-instance"

// store is the Provider.
type store struct {
	path       string
	component  string
	properties providers.Properties // as the manifest writes their names
	turn       chan struct{}        // holds one element while somebody makes a session
	done       chan struct{}        // closed by Close

	mu      sync.Mutex
	current *session // nil: none
	closed  bool
}

// session is a plugin that was initialised.
type session struct {
	conn     *grpc.ClientConn
	client   componentsv1pb.SecretStoreClient
	socket   fs.FileInfo // as it was then
	features []string
}

func newStore(path string, cfg providers.Config) *store {
	s := &store{
		path: path, component: cfg.Name, properties: providers.Properties{},
		turn: make(chan struct{}, 1), done: make(chan struct{}),
	}
	for name, value := range cfg.Properties {
		if written, ok := cfg.Written[name]; ok {
			name = written
		}
		s.properties[name] = value
	}
	return s
}

// Fetch asks the plugin for one secret.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	var out *componentsv1pb.GetSecretResponse
	err := s.call(ctx, q, "Get", func(ctx context.Context, c componentsv1pb.SecretStoreClient) (err error) {
		out, err = c.Get(ctx, &componentsv1pb.GetSecretRequest{Key: q.Name, Metadata: q.Metadata})
		return err
	})
	if err != nil {
		return providers.Payload{}, err
	}
	if len(out.GetData()) == 0 { // as in Dapr: the store answers with nothing
		return providers.Payload{}, nil
	}
	fields := make(map[string]secret.Value, len(out.GetData()))
	for name, value := range out.GetData() {
		fields[name] = secret.FromString(value)
	}
	return providers.Payload{Fields: fields}, nil
}

// List returns the names of all secrets, for which the plugin can only be asked together with what they hold.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	var out *componentsv1pb.BulkGetSecretResponse
	err := s.call(ctx, q, "BulkGet", func(ctx context.Context, c componentsv1pb.SecretStoreClient) (err error) {
		out, err = c.BulkGet(ctx, &componentsv1pb.BulkGetSecretRequest{Metadata: q.Metadata})
		return err
	})
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(out.GetData())), nil
}

// Close ends the connection.
func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.done)
	s.replace(nil)
	return nil
}

// call makes one call of an initialised plugin. One that does not reach the plugin is not made again, because that is
// what the resolver does; the plugin is initialised before it.
func (s *store) call(ctx context.Context, q providers.Query, name string, do func(context.Context, componentsv1pb.SecretStoreClient) error) error {
	if q.Version != "" || q.Stage != "" || q.Namespace != "" {
		return providers.Errorf(providers.Invalid, "plugins have no versions, stages or namespaces")
	}
	session, err := s.use(ctx)
	if err != nil {
		return err
	}
	err = do(s.outgoing(ctx), session.client)
	if err == nil {
		return nil
	}
	if code := status.Code(err); code == codes.Unavailable && ctx.Err() == nil {
		s.leave(session)
	}
	return plugin.Failure(ctx, name, err)
}

func (s *store) outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, instanceHeader, s.component)
}

// use returns a session with the plugin that is there now.
func (s *store) use(ctx context.Context) (*session, error) {
	if session, err := s.ready(ctx); session != nil || err != nil {
		return session, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, providers.ErrClosed()
	}
	if session, err := s.ready(ctx); session != nil || err != nil {
		return session, err // somebody else made it meanwhile
	}
	made, err := s.initialise(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = made.conn.Close() // nobody has used it
		return nil, providers.ErrClosed()
	}
	s.replace(made)
	return made, nil
}

// ready returns the session, unless there is none with the socket that is there now.
func (s *store) ready(ctx context.Context) (*session, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.mu.Lock()
	current, closed := s.current, s.closed
	s.mu.Unlock()
	if closed {
		return nil, providers.ErrClosed()
	}
	if current == nil {
		return nil, nil
	}
	now, err := os.Lstat(s.path)
	if err != nil || !os.SameFile(now, current.socket) || !now.ModTime().Equal(current.socket.ModTime()) {
		return nil, nil
	}
	return current, nil
}

// initialise connects to the plugin and hands over the component's properties.
func (s *store) initialise(ctx context.Context) (*session, error) {
	socket, err := os.Lstat(s.path)
	switch {
	case err != nil:
		return nil, providers.Errorf(providers.Unavailable, "no plugin is there: %w", err)
	case socket.Mode().Type() != fs.ModeSocket:
		return nil, providers.Errorf(providers.Unavailable, "%s is not a socket", s.path)
	}
	link, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path)
	if err != nil {
		return nil, plugin.Unreached(ctx, err)
	}
	conn, err := grpc.NewClient("passthrough:///plugin", grpc.WithAuthority("localhost"), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithContextDialer(dialOnce(link)))
	if err != nil {
		_ = link.Close() // nothing was said
		return nil, providers.Errorf(providers.Invalid, "%w", err)
	}
	made := &session{conn: conn, client: componentsv1pb.NewSecretStoreClient(conn), socket: socket}
	if err := s.introduce(ctx, made); err != nil {
		_, _ = conn.Close(), link.Close() // nobody has used it
		return nil, err
	}
	return made, nil
}

// dialOnce returns a dialer of one connection: behind another there may be another process, which was not initialised.
func dialOnce(link net.Conn) func(context.Context, string) (net.Conn, error) {
	var dialed atomic.Bool
	return func(context.Context, string) (net.Conn, error) {
		if dialed.Swap(true) {
			return nil, errors.New("the connection broke")
		}
		return link, nil
	}
}

// introduce makes the calls that come first, in Dapr's order.
func (s *store) introduce(ctx context.Context, made *session) error {
	properties := make(map[string]string, len(s.properties))
	for name, value := range s.properties {
		properties[name] = string(value.Reveal())
	}
	calling := s.outgoing(ctx)
	request := &componentsv1pb.SecretStoreInitRequest{Metadata: &componentsv1pb.MetadataRequest{Properties: properties}}
	if _, err := made.client.Init(calling, request); err != nil {
		return plugin.Failure(ctx, "Init", err)
	}
	features, err := made.client.Features(calling, &componentsv1pb.FeaturesRequest{})
	if err != nil {
		return plugin.Failure(ctx, "Features", err)
	}
	made.features = features.GetFeatures()
	return nil
}

// leave gives up a session that does not reach the plugin.
func (s *store) leave(gone *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == gone {
		s.replace(nil)
	}
}

// replace makes next the session. s.mu is held.
func (s *store) replace(next *session) {
	if s.current != nil {
		_ = s.current.conn.Close() // calls under way fail, as they would with the plugin gone
	}
	s.current = next
}

// Interface guard.
var _ providers.Lister = (*store)(nil)
