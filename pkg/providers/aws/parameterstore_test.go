package aws_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
)

func TestParameterNames(t *testing.T) {
	server := newServer(t)
	server.PutParameter("/prod/db/password", "SecureString", "c4n4ry-1")
	server.LabelParameter("/prod/db/password", "blue")
	server.PutParameter("/prod/db/password", "SecureString", "c4n4ry-2")
	server.PutParameter("/prod/list", "StringList", "a,b")
	server.PutParameter("/dev/db", "String", "dev")

	p := parameters(t, server, nil)
	want(t, p, providers.Query{Name: "/prod/db/password"}, "/prod/db/password", "c4n4ry-2")
	want(t, p, providers.Query{Name: "/prod/db/password", Version: "1"}, "/prod/db/password", "c4n4ry-1")
	want(t, p, providers.Query{Name: "/prod/db/password", Version: "blue"}, "/prod/db/password", "c4n4ry-1")
	want(t, p, providers.Query{Name: "/prod/list"}, "/prod/list", "a,b")
	want(t, p, providers.Query{Name: "arn:aws:ssm:eu-west-1:123456789012:parameter/dev/db"}, "/dev/db", "dev")
	for _, name := range []string{"/prod/db/password:1", "arn:aws:ssm:eu-west-1:123456789012:parameter/prod/db/password:1"} {
		wantKind(t, p, providers.Query{Name: name}, providers.Invalid, "version_id")
	}
	wantKind(t, p, providers.Query{Name: "/prod/list", Version: "1:2"}, providers.Invalid, "neither the number nor the label")
	wantKind(t, p, providers.Query{Name: "/prod/list", Stage: "AWSCURRENT"}, providers.Invalid, "no stages")

	prefixed := parameters(t, server, map[string]string{"prefix": "/prod/"})
	want(t, prefixed, providers.Query{Name: "db/password"}, "db/password", "c4n4ry-2")
	wantKind(t, prefixed, providers.Query{Name: "arn:aws:ssm:eu-west-1:123456789012:parameter/dev/db"}, providers.Invalid, "neither a name nor an ARN")
	names, err := prefixed.(providers.Lister).List(t.Context(), providers.Query{})
	if diff := cmp.Diff([]string{"db/password", "list"}, names); err != nil || diff != "" {
		t.Errorf("error %v, mismatch (-want +got):\n%s", err, diff)
	}
}

func TestParametersInBatches(t *testing.T) {
	server := newServer(t)
	p := parameters(t, server, nil)
	var names []string
	for i := range 25 {
		names = append(names, fmt.Sprintf("/db/%02d", i))
		server.PutParameter(names[i], "SecureString", "c4n4ry")
	}
	if failed := together(t, p, names...); len(failed) > 0 {
		t.Error(failed)
	}
	if n := len(server.Calls("")); n > 6 {
		t.Errorf("%d calls for 25 parameters", n)
	}
	server.DeleteParameter(names[0])
	failed := together(t, p, names[:3]...)
	if len(failed) != 1 || providers.KindOf(failed[names[0]]) != providers.NotFound {
		t.Errorf("with one missing: %v", failed)
	}
}

// TestParametersWithoutTheBatch: who may not read all of a batch gets what he may read.
func TestParametersWithoutTheBatch(t *testing.T) {
	server := newServer(t)
	server.User("dapr", "AKIDDAPR", "s")
	server.Allow("dapr", "ssm:GetParameter*", "/db/*")
	p := parameters(t, server, map[string]string{"accessKey": "AKIDDAPR", "secretKey": "s"})
	for _, name := range []string{"/db/1", "/db/2", "/other"} {
		server.PutParameter(name, "String", "c4n4ry")
	}
	failed := together(t, p, "/db/1", "/db/2", "/other")
	if len(failed) != 1 || providers.KindOf(failed["/other"]) != providers.Denied {
		t.Errorf("failed: %v", failed)
	}
}

// TestUnchangedIsNotDecrypted: the key service is asked, and paid, for what has changed only.
func TestUnchangedIsNotDecrypted(t *testing.T) {
	server := newServer(t)
	p := parameters(t, server, nil)
	version := server.PutParameter("db", "SecureString", "c4n4ry")
	if _, payload, err := storetest.Fetch(t, p, providers.Query{Name: "db", Known: version}); err != nil || !payload.Unchanged {
		t.Errorf("got %+v, %v", payload, err)
	}
	for _, c := range server.Calls("") {
		if c.Decrypt {
			t.Errorf("%s decrypted %v", c.Action, c.Names)
		}
	}
	server.PutParameter("db", "SecureString", "c4n4ry-2")
	want(t, p, providers.Query{Name: "db", Known: version}, "db", "c4n4ry-2")
	version = server.PutParameter("plain", "String", "old")
	server.PutParameter("plain", "String", "new")
	before := len(server.Calls(""))
	want(t, p, providers.Query{Name: "plain", Known: version}, "plain", "new")
	if n := len(server.Calls("")) - before; n != 1 {
		t.Errorf("%d calls for a parameter that is not encrypted", n)
	}
}
