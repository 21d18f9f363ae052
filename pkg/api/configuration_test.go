package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	commonv1pb "github.com/dapr/dapr/pkg/proto/common/v1"
	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// servedGRPC runs a test against a served API in a synctest bubble, with a gRPC client that has no network.
func servedGRPC(t *testing.T, m *providertest.Memory, change func(*fixture), test func(f *fixture, c *configurationClient)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t).withStore("vault", m, quiet)
		if change != nil {
			change(f)
		}
		ctx, cancel := context.WithCancel(context.Background())
		listener := newPipes()
		stopped := make(chan error, 1)
		go func() { stopped <- api.New(f.options).Run(ctx, api.Listeners{GRPC: []net.Listener{listener}}) }()
		conn, err := grpc.NewClient("passthrough:agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.dial(), nil }))
		if err != nil {
			t.Fatal(err)
		}
		test(f, &configurationClient{runtimev1pb.NewDaprClient(conn), t, cancel})
		_ = conn.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		f.resolver.Close()
	})
}

type configurationClient struct {
	runtimev1pb.DaprClient
	t    *testing.T
	stop func()
}

// subscription is a stream of items.
type subscription struct {
	t        *testing.T
	id       string
	cancel   context.CancelFunc
	messages chan *runtimev1pb.SubscribeConfigurationResponse
	err      error // once messages is closed
}

func (c *configurationClient) subscribe(keys ...string) *subscription {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	stream, err := c.SubscribeConfiguration(ctx, &runtimev1pb.SubscribeConfigurationRequest{StoreName: "vault", Keys: keys})
	if err != nil {
		c.t.Fatal(err)
	}
	s := &subscription{t: c.t, cancel: cancel, messages: make(chan *runtimev1pb.SubscribeConfigurationResponse, 100)}
	go func() {
		defer close(s.messages)
		for {
			message, err := stream.Recv()
			if err != nil {
				s.err = err
				return
			}
			s.messages <- message
		}
	}()
	if first, ok := <-s.messages; ok {
		s.id = first.GetId()
		if len(first.GetItems()) > 0 || s.id == "" {
			c.t.Errorf("first message: %v", first)
		}
	}
	return s
}

// want fails the test unless exactly these items have arrived. Changes of different secrets come in any order.
func (s *subscription) want(want ...string) {
	s.t.Helper()
	synctest.Wait()
	var got []string
	for {
		select {
		case m, ok := <-s.messages:
			if !ok {
				s.t.Errorf("the stream has ended: %v", s.err)
				return
			}
			if m.GetId() != s.id {
				s.t.Errorf("a message has id %q", m.GetId())
			}
			for _, name := range slices.Sorted(maps.Keys(m.GetItems())) {
				got = append(got, itemText(name, m.GetItems()[name]))
			}
		default:
			slices.SortStableFunc(got, byName)
			if diff := cmp.Diff(want, got); diff != "" {
				s.t.Errorf("items (-want +got):\n%s", diff)
			}
			return
		}
	}
}

// byName orders texts of items by the name alone, so that the order of one secret's changes stays.
func byName(a, b string) int {
	nameA, _, _ := strings.Cut(a, "=")
	nameB, _, _ := strings.Cut(b, "=")
	return strings.Compare(nameA, nameB)
}

// wantEnd fails the test unless the stream has ended with a code and nothing before.
func (s *subscription) wantEnd(code codes.Code) {
	s.t.Helper()
	synctest.Wait()
	select {
	case m, ok := <-s.messages:
		if ok || status.Code(s.err) != code {
			s.t.Errorf("message %v, end %v", m, s.err)
		}
	default:
		s.t.Error("the stream goes on")
	}
}

func itemText(name string, it *commonv1pb.ConfigurationItem) string {
	text := name + "=" + it.GetValue()
	for _, key := range slices.Sorted(maps.Keys(it.GetMetadata())) {
		text += fmt.Sprintf(" %s=%s", key, it.GetMetadata()[key])
	}
	return text
}

func TestSubscribeConfiguration(t *testing.T) {
	m := providertest.NewMemory()
	put := func(f *fixture, name string, fields map[string]string) {
		m.Put(name, fields)
		f.resolver.Invalidate("vault", name)
	}
	m.Put("a", map[string]string{"a": "1"})
	m.Put("db", map[string]string{"user": "u", "password": "1"})
	servedGRPC(t, m, nil, func(f *fixture, c *configurationClient) {
		keyed, all := c.subscribe("db", "a", "later", "a"), c.subscribe()
		keyed.want()
		all.want()
		put(f, "a", map[string]string{"a": "2"})
		keyed.want("a=2")
		all.want("a=2")
		put(f, "db", map[string]string{"user": "u", "password": "2"})
		keyed.want(`db={"password":"2","user":"u"} keywell-encoding=json`)
		all.want(`db={"password":"2","user":"u"} keywell-encoding=json`)
		put(f, "later", map[string]string{"any": "x"})
		put(f, "other", map[string]string{"other": "y"})
		keyed.want("later=x")
		all.want("later=x", "other=y")
		m.Delete("a")
		f.resolver.Invalidate("vault", "a")
		keyed.want("a= keywell-deleted=true")
		all.want("a= keywell-deleted=true")

		f.resolver.Remove("vault") // in the policy still: it may come back
		m.Put("db", map[string]string{"user": "u", "password": "3"})
		keyed.want()
		f.resolver.Install(resolve.Store{Name: "vault", Provider: m.Provider(), Settings: quiet})
		keyed.want(`db={"password":"3","user":"u"} keywell-encoding=json`)
		all.want(`db={"password":"3","user":"u"} keywell-encoding=json`)

		for _, s := range []*subscription{keyed, all} {
			resp, err := c.UnsubscribeConfiguration(c.t.Context(), &runtimev1pb.UnsubscribeConfigurationRequest{StoreName: "vault", Id: s.id})
			if err != nil || !resp.GetOk() {
				c.t.Errorf("unsubscribe: %v, %v", resp, err)
			}
		}
		for range keyed.messages {
			c.t.Error("a message after the end")
		}
		if keyed.err.Error() != "EOF" {
			c.t.Errorf("the end of what was unsubscribed: %v", keyed.err)
		}
		resp, err := c.UnsubscribeConfigurationAlpha1(c.t.Context(), &runtimev1pb.UnsubscribeConfigurationRequest{Id: keyed.id})
		if err != nil || resp.GetOk() || !strings.Contains(resp.GetMessage(), "subscription does not exist") {
			c.t.Errorf("unsubscribe again: %v, %v", resp, err)
		}
		if n := f.countStreams(c.t); n != 0 {
			c.t.Errorf("%d subscriptions are left", n)
		}
	})
}

func TestSubscriptionEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(f *fixture, c *configurationClient)
		want codes.Code
	}{
		"a policy that denies": {func(f *fixture, _ *configurationClient) {
			f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"a"}}}
			f.setPolicy()
		}, codes.PermissionDenied},
		"a policy without the store": {func(f *fixture, _ *configurationClient) {
			f.rules.Stores = nil
			f.setPolicy()
		}, codes.FailedPrecondition},
		"the agent's end": {func(_ *fixture, c *configurationClient) { c.stop() }, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			m := providertest.NewMemory()
			m.Put("a", map[string]string{"a": "1"})
			servedGRPC(t, m, nil, func(f *fixture, c *configurationClient) {
				s := c.subscribe("a")
				s.want()
				tc.end(f, c)
				m.Put("a", map[string]string{"a": "never told"})
				s.wantEnd(tc.want)
			})
		})
	}
}

// TestSubscribeIsRefused has the stream fail before anything is sent.
func TestSubscribeIsRefused(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("a", map[string]string{"a": "1"})
	m.FailName("broken", providers.Errorf(providers.Unavailable, "down"))
	deny := func(f *fixture) {
		f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"root"}}}
		f.setPolicy()
	}
	servedGRPC(t, m, deny, func(_ *fixture, c *configurationClient) {
		c.subscribe("a", "root").wantEnd(codes.PermissionDenied)
		c.subscribe("").wantEnd(codes.InvalidArgument)
		c.subscribe("broken").wantEnd(codes.InvalidArgument)
		c.subscribe("1", "2", "3", "4", "5", "6", "7", "8", "9").wantEnd(codes.ResourceExhausted)
		c.subscribe(strings.Repeat("x", 17<<10)).wantEnd(codes.InvalidArgument)
	})
}

// TestUnsubscribeOwn has a caller not end what belongs to another.
func TestUnsubscribeOwn(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("a", map[string]string{"a": "1"})
	byToken := func(f *fixture) {
		f.options.Attest = func(_ context.Context, e api.Evidence) (scope.Identity, error) {
			return scope.Identity{AppID: string(e.Token.Reveal())}, nil
		}
	}
	servedGRPC(t, m, byToken, func(f *fixture, c *configurationClient) {
		mine := c.subscribe("a")
		other := metadata.AppendToOutgoingContext(c.t.Context(), "dapr-api-token", "other")
		resp, err := c.UnsubscribeConfiguration(other, &runtimev1pb.UnsubscribeConfigurationRequest{Id: mine.id})
		if err != nil || resp.GetOk() {
			c.t.Errorf("another caller: %v, %v", resp, err)
		}
		m.Put("a", map[string]string{"a": "2"})
		f.resolver.Invalidate("vault", "a")
		mine.want("a=2")
		mine.cancel()
	})
}

func TestGetConfiguration(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("a", map[string]string{"a": "1"})
	m.Put("db", map[string]string{"user": "u", "password": "1"})
	m.Put("root", map[string]string{"root": "never told"})
	m.Put("binary", map[string]string{"binary": "\xff"})
	deny := func(f *fixture) {
		f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"root"}}}
		f.setPolicy()
	}
	servedGRPC(t, m, deny, func(_ *fixture, c *configurationClient) {
		get := c.GetConfiguration
		for _, get := range []func(context.Context, *runtimev1pb.GetConfigurationRequest, ...grpc.CallOption) (*runtimev1pb.GetConfigurationResponse, error){get, c.GetConfigurationAlpha1} {
			for _, keys := range [][]string{nil, {"db", "a", "missing"}} {
				resp, err := get(c.t.Context(), &runtimev1pb.GetConfigurationRequest{StoreName: "vault", Keys: keys})
				if err != nil {
					c.t.Fatal(err)
				}
				var got []string
				for _, name := range slices.Sorted(maps.Keys(resp.GetItems())) {
					got = append(got, itemText(name, resp.GetItems()[name]))
				}
				if diff := cmp.Diff([]string{"a=1", `db={"password":"1","user":"u"} keywell-encoding=json`}, got); diff != "" {
					c.t.Errorf("keys %q (-want +got):\n%s", keys, diff)
				}
			}
		}
		for key, want := range map[string]codes.Code{"root": codes.PermissionDenied, "binary": codes.Internal} {
			if _, err := get(c.t.Context(), &runtimev1pb.GetConfigurationRequest{StoreName: "vault", Keys: []string{key}}); status.Code(err) != want {
				c.t.Errorf("%s: %v", key, err)
			}
		}
		if _, err := get(c.t.Context(), &runtimev1pb.GetConfigurationRequest{StoreName: "nowhere"}); status.Code(err) != codes.InvalidArgument {
			c.t.Errorf("no such store: %v", err)
		}
	})
}

// TestManyItems has more come at once than one message may hold.
func TestManyItems(t *testing.T) {
	m := providertest.NewMemory()
	servedGRPC(t, m, func(f *fixture) { f.options.MaxBodyBytes = 2 << 20 }, func(f *fixture, c *configurationClient) {
		all := c.subscribe()
		all.want()
		for i := range 6 {
			m.Put(fmt.Sprint(i), map[string]string{"x": strings.Repeat("x", 600<<10)})
		}
		f.resolver.Invalidate("vault", "")
		time.Sleep(time.Second) // of the bubble
		seen := map[string]bool{}
		for len(seen) < 6 {
			message, ok := <-all.messages
			if !ok {
				c.t.Fatalf("the stream has ended: %v", all.err)
			}
			for name := range message.GetItems() {
				seen[name] = true
			}
		}
		all.cancel()
	})
}

// TestSubscribeByEvents subscribes over HTTP, where a client that accepts events has the updates in the answer, in the form
// in which a daprd sends them to its app.
func TestSubscribeByEvents(t *testing.T) {
	m := providertest.NewMemory()
	served(t, withDB(m, quiet), func(t *testing.T, f *fixture, s *server) {
		const path = "/v1.0/configuration/vault/"
		for _, accept := range []string{"", "*/*", "application/json"} {
			st := s.get(path+"subscribe?key=db", "Accept", accept)
			if lines, _ := st.new(); st.StatusCode != http.StatusInternalServerError || !strings.Contains(fmt.Sprint(lines), "ERR_APP_CHANNEL_NIL") {
				t.Errorf("accepting %q: %d %q", accept, st.StatusCode, lines)
			}
		}
		st := s.get(path+"subscribe?key=db&key=later", "Accept", "application/json, text/event-stream;q=0.9")
		if st.StatusCode != http.StatusOK || st.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("status %d, headers %v", st.StatusCode, st.Header)
		}
		lines, _ := st.new()
		var told struct{ ID string }
		if len(lines) != 2 || lines[0] != "event: subscription" || json.Unmarshal([]byte(strings.TrimPrefix(lines[1], "data: ")), &told) != nil || told.ID == "" {
			t.Fatalf("the beginning is %q", lines)
		}
		change(f, m, "2")
		st.want("event: configuration", `data: {"id":"`+told.ID+`","items":{"db":{"value":"{\"password\":\"2\",\"user\":\"u\"}","version":…`)
		m.Put("later", map[string]string{"later": "x"})
		f.resolver.Invalidate("vault", "later")
		st.want("event: configuration", `data: {"id":"`+told.ID+`","items":{"later":{"value":"x","version":…`)
		time.Sleep(15 * time.Second) // of the bubble
		st.want(":")

		end := s.get(path + told.ID + "/unsubscribe")
		if lines, _ := end.new(); end.StatusCode != http.StatusOK || !slices.Equal(lines, []string{`{"ok":true}`}) {
			t.Errorf("unsubscribe: %d %q", end.StatusCode, lines)
		}
		if lines, ended := st.new(); len(lines) > 0 || !ended {
			t.Errorf("after the end: %q (ended: %t)", lines, ended)
		}
		if n := f.countStreams(t); n != 0 {
			t.Errorf("%d subscriptions are left", n)
		}
		for target, want := range map[string]string{
			path + "subscribe?key=":                    "a key is empty",
			"/v1.0/configuration/none/subscribe?key=a": "ERR_CONFIGURATION_STORE_NOT_FOUND",
		} {
			st := s.get(target, "Accept", "text/event-stream")
			if lines, _ := st.new(); st.StatusCode < 400 || !strings.Contains(fmt.Sprint(lines), want) {
				t.Errorf("%s: %d %q", target, st.StatusCode, lines)
			}
		}
	})
}
