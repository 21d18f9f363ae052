package huawei_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/huawei"
	"github.com/keywell/keywell/pkg/providers/huawei/huaweitest"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := newServer(t)
			cfg := storetest.Config(metadata(server, nil))
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, cfg),
				Put: func(name string, fields map[string]string) string {
					return server.Put(name, fields[name], !utf8.ValidString(fields[name]))
				},
				Delete: server.Delete,
				Faults: faults(server),
				Hang:   func() { server.Fail(func(servertest.Call) *servertest.Fault { return &servertest.Fault{Hang: true} }) },
			}
		},
		Binary:         true,
		Lists:          true,
		PageSize:       100,
		MaxValue:       32 << 10,
		Compares:       true,
		UnknownVersion: "v1000",
		CurrentStage:   "SYSCURRENT",
		PreviousStage:  "SYSPREVIOUS",
		RetryAfter:     3 * time.Second,
	})
}

func faults(server *huaweitest.Server) map[providers.Kind]func(string) {
	all := map[providers.Kind]func(string){}
	for kind, fault := range map[providers.Kind]servertest.Fault{
		providers.NotFound:    {Status: 400, Code: "CSMS.0103"},
		providers.Denied:      {Status: 403},
		providers.Invalid:     {Status: 400, Code: "CSMS.0002"},
		providers.Unavailable: {Status: 500, Code: "CSMS.0001"},
		providers.Throttled:   {Status: 429, Code: "APIG.0308", Header: http.Header{"Retry-After": {"3"}}},
	} {
		all[kind] = func(name string) { server.FailName(name, fault) }
	}
	return all
}

// TestDaprManifest reads with Dapr's three fields alone, in any case; the project's id is asked for once.
func TestDaprManifest(t *testing.T) {
	server := newServer(t)
	server.Put("db", "c4n4ry", false)
	p := open(t, storetest.Config(ofServer(server, map[string]string{"AccessKey": id, "SECRETACCESSKEY": key})))
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { want(t, p, providers.Query{Name: "db"}, "c4n4ry") })
	}
	all.Wait()
	wantCalls(t, server, map[string]int{"projects": 1, "ShowSecretVersion": 10})
}

func TestManifestIsRefused(t *testing.T) {
	pod := map[string]string{"region": "r", "identity": "pod", "identityProvider": "cluster", "tokenAudience": "keywell"}
	for name, tt := range map[string]struct {
		metadata map[string]string
		text     string
	}{
		"no region":         {nil, `"region" is required`},
		"region":            {map[string]string{"region": "a.b"}, `"region" is not`},
		"project":           {map[string]string{"region": "r", "projectId": "a/b"}, `"projectId" is not`},
		"provider":          {storetest.With(pod, map[string]string{"identityProvider": "a/b"}), `"identityProvider" is not`},
		"endpoint":          {map[string]string{"region": "r", "endpoint": "kms"}, `"endpoint" is not a URL`},
		"no TLS":            {map[string]string{"region": "r", "iamEndpoint": "http://iam"}, `"iamEndpoint" does not begin with https`},
		"half a key":        {map[string]string{"region": "r", "accessKey": "a"}, `"secretAccessKey" is required`},
		"other half":        {map[string]string{"region": "r", "secretAccessKey": "c4n4ry"}, `"accessKey" is required`},
		"pod with key":      {storetest.With(pod, map[string]string{"accessKey": "a", "secretAccessKey": "c4n4ry"}), "leave out accessKey"},
		"pod, no provider":  {storetest.With(pod, map[string]string{"identityProvider": ""}), `"identityProvider" is required`},
		"pod, no audience":  {storetest.With(pod, map[string]string{"tokenAudience": ""}), `"tokenAudience" is required`},
		"token without key": {map[string]string{"region": "r", "securityToken": "c4n4ry"}, `"accessKey" is required`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := huawei.Driver().Open(t.Context(), storetest.Config(tt.metadata))
			if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("error %v, want Invalid with %q", err, tt.text)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	server, p := newStore(t, map[string]string{"projectId": huaweitest.Project})
	for _, value := range []string{"c4n4ry-1", "c4n4ry-2", "c4n4ry-3"} {
		server.Put("db", value, false)
	}
	server.Stage("db", "canary", "v1")
	for name, tt := range map[string]struct {
		q    providers.Query
		want string
	}{
		"none":              {providers.Query{}, "c4n4ry-3"},
		"latest":            {providers.Query{Version: "latest"}, "c4n4ry-3"},
		"by id":             {providers.Query{Version: "v2"}, "c4n4ry-2"},
		"previous":          {providers.Query{Stage: "SYSPREVIOUS"}, "c4n4ry-2"},
		"own stage":         {providers.Query{Stage: "canary"}, "c4n4ry-1"},
		"id and its stage":  {providers.Query{Stage: "canary", Version: "v1"}, "c4n4ry-1"},
		"other metadata":    {providers.Query{Metadata: map[string]string{"x": "y"}}, "c4n4ry-3"},
		"id, another stage": {providers.Query{Stage: "canary", Version: "v2"}, ""},
	} {
		tt.q.Name = "db"
		if tt.want == "" {
			wantKind(t, p, tt.q, providers.NotFound, "version v2 is not in stage canary")
		} else {
			want(t, p, tt.q, tt.want)
		}
		if t.Failed() {
			t.Fatal(name)
		}
	}
	for _, bad := range []providers.Query{{Name: "a/b"}, {Name: "db", Version: "../x"}, {Name: "db", Stage: "a b"}, {Name: strings.Repeat("n", 65)}, {Name: ".."}} {
		before := len(server.Calls(""))
		wantKind(t, p, bad, providers.Invalid, "")
		if n := len(server.Calls("")) - before; n != 0 {
			t.Errorf("%v was sent", bad)
		}
	}
}

// TestRefresh: what has not changed is not read, and any doubt is a read.
func TestRefresh(t *testing.T) {
	server, p := newStore(t, map[string]string{"projectId": huaweitest.Project})
	server.Put("db", "c4n4ry-1", false)
	server.Put("db", "c4n4ry-2", false)
	known := func(known string, q providers.Query) (unchanged bool) {
		t.Helper()
		q.Name, q.Known = "db", known
		got, err := p.Fetch(t.Context(), q)
		if err != nil || got.Version == "" {
			t.Errorf("%+v: %v, %v", q, got, err)
		}
		return got.Unchanged
	}
	if !known("v2", providers.Query{}) || !known("v2", providers.Query{Version: "latest"}) || !known("v1", providers.Query{Version: "v1"}) ||
		!known("v1", providers.Query{Stage: "SYSPREVIOUS"}) {
		t.Error("read what has not changed")
	}
	wantCalls(t, server, map[string]int{"ListSecretVersions": 4})
	if known("v1", providers.Query{}) || known("v1", providers.Query{Stage: "SYSCURRENT"}) || known("v9", providers.Query{}) || known("v1", providers.Query{Version: "v2"}) {
		t.Error("did not read what has changed")
	}
	server.Put("db", "c4n4ry-3", false)
	server.Stage("db", "SYSCURRENT", "v2")
	for _, version := range []string{"v2", "v3"} { // what is in use is not what was made last
		if known(version, providers.Query{}) {
			t.Errorf("did not read in doubt, with %s", version)
		}
	}

	server.Forbid(admin)
	server.Allow(admin, "ShowSecretVersion", "*")
	before := len(server.Calls("ListSecretVersions"))
	for range 2 {
		if known("v3", providers.Query{}) {
			t.Error("unchanged, without a right to know")
		}
	}
	if n := len(server.Calls("ListSecretVersions")) - before; n != 1 {
		t.Errorf("asked %d times though it was refused", n)
	}
}

func TestMembers(t *testing.T) {
	server, p := newStore(t, map[string]string{"multipleKeyValuesPerSecret": "true", "nestedSeparator": "."})
	server.Put("db", `{"user":"u","hosts":["a",{"port":10000000000000001}],"none":null}`, false)
	server.Put("plain", "c4n4ry", false)
	server.Put("binary", `{"a":"b"}`, true)
	for name, fields := range map[string]map[string]string{
		"db":     {"user": "u", "hosts.0": "a", "hosts.1.port": "10000000000000001", "none": "null"},
		"plain":  {"plain": "c4n4ry"},
		"binary": {"binary": `{"a":"b"}`},
	} {
		if got, _, err := storetest.Fetch(t, p, providers.Query{Name: name}); err != nil || !cmp.Equal(got, fields) {
			t.Errorf("%v, %s", err, cmp.Diff(fields, got))
		}
	}
	multiple := huawei.Driver().MultipleKeyValues
	if !multiple(storetest.Config(metadata(server, map[string]string{"multipleKeyValuesPerSecret": "yes"}))) || multiple(storetest.Config(metadata(server, nil))) {
		t.Error("the capability is not what the manifest says")
	}
}

// TestListing lists what can be read, by pages that overlap.
func TestListing(t *testing.T) {
	server, p := newStore(t, map[string]string{"projectId": huaweitest.Project})
	wantNames := []string{}
	for i := range 250 {
		name := fmt.Sprintf("s-%03d", i)
		server.Put(name, "c4n4ry", false)
		switch i {
		case 7:
			server.SetState(name, "DISABLED")
		case 99:
			server.SetState(name, "PENDING_DELETE")
		default:
			wantNames = append(wantNames, name)
		}
	}
	got, err := p.(providers.Lister).List(t.Context(), providers.Query{})
	if err != nil || !cmp.Equal(got, wantNames) {
		t.Errorf("%v, %s", err, cmp.Diff(wantNames, got))
	}
	wantCalls(t, server, map[string]int{"ListSecrets": 3})
	wantKind(t, p, providers.Query{Name: "s-007"}, providers.NotFound, "CSMS.0103")
}

func TestErrors(t *testing.T) {
	server := newServer(t)
	server.Key("TEMPORARY", "c4n4ry-key", "c4n4ry-token", admin)
	for _, name := range []string{"db", "half", "down", "odd", "busy", "moved", "other"} {
		server.Put(name, "c4n4ry", false)
	}
	server.Fail(func(c servertest.Call) *servertest.Fault {
		return map[string]*servertest.Fault{
			"half": {}, "down": {Status: 502}, "odd": {Status: 400, Code: "CSMS.0999"}, "busy": {Status: 400, Code: "APIG.0308"},
			"moved": {Status: 302, Header: http.Header{"Location": {"https://192.0.2.1/"}}}, "other": {Status: 404, Code: "c4n4ry in a code"},
		}[c.Name]
	})
	for name, tt := range map[string]struct {
		secret string
		more   map[string]string
		kind   providers.Kind
		text   string
	}{
		"no such secret":     {"none", nil, providers.NotFound, "answered 400 CSMS.0106"},
		"wrong key":          {"db", map[string]string{"secretAccessKey": "other"}, providers.Denied, "APIGW.0301"},
		"wrong key, project": {"db", map[string]string{"secretAccessKey": "other", "projectId": huaweitest.Project}, providers.Denied, "APIG.0301"},
		"no token":           {"db", map[string]string{"accessKey": "TEMPORARY", "secretAccessKey": "c4n4ry-key"}, providers.Denied, "APIGW.0301"},
		"other project":      {"db", map[string]string{"projectId": "x"}, providers.Denied, "APIG.0301"},
		"other region":       {"db", map[string]string{"region": "eu-west-101"}, providers.Invalid, "set projectId"},
		"half a body":        {"half", nil, providers.Unavailable, "no usable answer"},
		"502":                {"down", nil, providers.Unavailable, "answered 502"},
		"redirect":           {"moved", nil, providers.Unavailable, "malformed"},
		"not known":          {"odd", nil, providers.Invalid, "CSMS.0999"},
		"not a code":         {"other", nil, providers.Invalid, "answered 404"},
		"throttled, 400":     {"busy", nil, providers.Throttled, "APIG.0308"},
		"nobody":             {"db", map[string]string{"endpoint": "https://127.0.0.1:1"}, providers.Unavailable, "refused"},
		"no IAM":             {"db", map[string]string{"iamEndpoint": "https://127.0.0.1:1"}, providers.Unavailable, "project of region"},
	} {
		t.Run(name, func(t *testing.T) {
			wantKind(t, open(t, storetest.Config(metadata(server, tt.more))), providers.Query{Name: tt.secret}, tt.kind, tt.text)
		})
	}
	temporary := map[string]string{"accessKey": "TEMPORARY", "secretAccessKey": "c4n4ry-key", "securityToken": "c4n4ry-token"}
	want(t, open(t, storetest.Config(metadata(server, temporary))), providers.Query{Name: "db"}, "c4n4ry")
	for skew, text := range map[time.Duration]string{time.Hour: "this node's clock is 1h0m0s behind", -time.Hour: "this node's clock is 1h0m0s ahead"} {
		server.Skew(skew)
		wantKind(t, open(t, storetest.Config(metadata(server, nil))), providers.Query{Name: "db"}, providers.Denied, text)
	}
}

// TestNothingIsLeft: calls that hang end with their contexts, and leave no goroutine, though the SDK knows no contexts.
func TestNothingIsLeft(t *testing.T) {
	server, p := newStore(t, nil)
	server.Put("db", "c4n4ry", false)
	want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	server.Fail(func(servertest.Call) *servertest.Fault { return &servertest.Fault{Hang: true} })
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := p.Fetch(ctx, providers.Query{Name: "db"}); providers.KindOf(err) != providers.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("hung: %v", err)
			}
		})
	}
	all.Wait()
	stacks := make([]byte, 1<<20)
	if stacks = stacks[:runtime.Stack(stacks, true)]; strings.Contains(string(stacks), "huaweicloud-sdk-go") {
		t.Errorf("the SDK goes on:\n%s", stacks)
	}
}
