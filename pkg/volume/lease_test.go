package volume_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/volume"
)

// leases writes down what it is told, as text.
type leases struct {
	mu   sync.Mutex
	told []string
	err  error // of Adopt
}

func (l *leases) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, fmt.Sprintf(format, args...))
}

func (l *leases) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.told
	l.told = nil
	return told
}

func (l *leases) Adopt(_ context.Context, req resolve.Request, p providers.Payload, issued time.Time) error {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(p.Fields)) {
		all = append(all, name+"="+string(p.Fields[name].Reveal()))
	}
	id := "none"
	if p.Lease != nil {
		id = p.Lease.ID
	}
	if !p.Issued || issued.IsZero() || p.NotAfter.IsZero() {
		id += " incomplete"
	}
	own := ""
	if req.Own != "" {
		own = fmt.Sprintf(" of %q", req.Own)
	}
	l.note("adopt %s %v%s lease %s: %s", req.Grant.Ref().Name, req.Metadata, own, id, strings.Join(all, " "))
	return l.err
}

func (l *leases) Release(req resolve.Request) {
	l.note("release %s of %q", req.Grant.Ref().Name, req.Own)
}

func (l *leases) Shared(a, b resolve.Request) bool {
	return a.Grant.Ref() == b.Grant.Ref() && a.Own == b.Own && maps.Equal(a.Metadata, b.Metadata)
}

// newIssuing returns a node of whose store every answer is issued, under a lease that is called L1.
func newIssuing(t *testing.T) (*node, *leases) {
	t.Helper()
	l := &leases{}
	n := newNode(t, func(o *volume.Options) { o.Leases = l })
	n.store.set("creds", fields{"user": "u1", "password": "p1-c4n4ry"})
	n.store.result = resolve.Result{Payload: providers.Payload{
		Issued: true, NotAfter: time.Now().Add(time.Hour), Lease: &providers.Lease{ID: "L1", Duration: time.Hour, Renewable: true},
	}}
	return n, l
}

// TestLeasesAreAdopted: another process tells what the one before had issued, with the content from the files, once.
func TestLeasesAreAdopted(t *testing.T) {
	for name, tt := range map[string]struct {
		item string
		want string // empty: it can't be told
	}{
		"all fields":                      {"{name: creds, parameters: {ttl: 1h}}", "adopt creds map[ttl:1h] lease L1: password=p1-c4n4ry user=u1"},
		"in another place":                {"{name: creds, path: .}", "adopt creds map[] lease L1: password=p1-c4n4ry user=u1"},
		"all fields, listed":              {"{name: creds, fields: {user: u, password: dir/p}}", "adopt creds map[] lease L1: password=p1-c4n4ry user=u1"},
		"not all fields":                  {"{name: creds, fields: [user]}", `adopt creds map[] of "v" lease L1: user=u1`},
		"optional fields":                 {"{name: creds, optional: true, fields: [user, password, none]}", "adopt creds map[] lease L1: password=p1-c4n4ry user=u1"},
		"in one file":                     {"{name: creds, format: json}", ""},
		"with what was encoded":           {"{name: creds, fields: [user, {name: password, encoding: base64}]}", ""},
		"with another that is not issued": {"{name: creds, path: c}, {name: plain}", "adopt creds map[] lease L1: password=p1-c4n4ry user=u1"},
	} {
		t.Run(name, func(t *testing.T) {
			n, l := newIssuing(t)
			if strings.Contains(tt.item, "base64") {
				n.store.set("creds", fields{"user": "u1", "password": "cDE="})
			}
			n.store.set("plain", fields{"plain": "x"})
			req := n.request("v", "["+tt.item+"]")
			n.mustPublish(t, req)
			if told := l.take(); told != nil {
				t.Errorf("told at publish: %q", told)
			}
			n.restart(t)
			if err := n.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if out, err := n.Rotate(t.Context(), "v"); err != nil || out.Changed {
					t.Errorf("rotate: %+v, %v", out, err)
				}
			}
			told := l.take()
			if strings.Contains(tt.item, "plain") { // the fake's every answer is issued
				told = slices.DeleteFunc(told, func(s string) bool { return strings.HasPrefix(s, "adopt plain") })
			}
			var want []string
			if tt.want != "" {
				want = []string{tt.want}
			}
			if diff := cmp.Diff(want, told); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
			if record := n.records(t)["v"]; strings.Contains(record, "c4n4ry") || !strings.Contains(record, `"L1"`) {
				t.Errorf("the record is %s", record)
			}
		})
	}
}

// TestAdoptWhileTheStoreIsDown: nothing is issued, the files stay, and it is tried again.
func TestAdoptWhileTheStoreIsDown(t *testing.T) {
	n, l := newIssuing(t)
	n.mustPublish(t, n.request("v", "creds"))
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	reads := n.store.count()
	l.err = providers.Errorf(providers.Unavailable, "down")
	if _, err := n.Rotate(t.Context(), "v"); providers.KindOf(err) != providers.Unavailable || !n.condition(t, "v").Abnormal {
		t.Errorf("rotate: %v", err)
	}
	if got := n.store.count(); got != reads {
		t.Error("the store was asked to issue again")
	}
	if diff := cmp.Diff(map[string]string{"creds/user": "u1", "creds/password": "p1-c4n4ry"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
	l.err = providers.Errorf(providers.NotFound, "it has ended")
	n.store.set("creds", fields{"user": "u2", "password": "p2"})
	if out, err := n.Rotate(t.Context(), "v"); err != nil || !out.Changed || len(l.take()) != 2 {
		t.Errorf("rotate: %+v, %v", out, err)
	}
}

// TestLeasesAreReleased: when the last volume goes that has them.
func TestLeasesAreReleased(t *testing.T) {
	n, l := newIssuing(t)
	unpublish := func(id string) {
		t.Helper()
		if err := n.Unpublish(t.Context(), id, n.target(id)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"a", "b"} {
		n.mustPublish(t, n.request(id, "creds"))
	}
	issue := func(lease string) { n.store.result.Lease = &providers.Lease{ID: lease, Duration: time.Hour} }
	issue("L2")
	n.mustPublish(t, n.request("own", "[{name: creds, own: true}]"))
	issue("L3")
	n.mustPublish(t, n.request("other", "[{name: creds, parameters: {ttl: 1h}}]"))
	for id, want := range map[string][]string{"own": {`release creds of "own"`}, "other": {`release creds of ""`}} {
		unpublish(id)
		if diff := cmp.Diff(want, l.take()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	unpublish("a")
	if told := l.take(); told != nil {
		t.Errorf("another volume has it: %q", told)
	}
	n.store.result.Issued, n.store.result.Lease = false, nil
	n.mustPublish(t, n.request("c", "creds"))
	unpublish("c")
	if told := l.take(); told != nil {
		t.Errorf("nothing was issued: %q", told)
	}
	unpublish("b")
	if diff := cmp.Diff([]string{`release creds of ""`}, l.take()); diff != "" {
		t.Errorf("the last one (-want +got):\n%s", diff)
	}
}

// TestRecordFollowsTheLease: the record is written when the store says something new, and only then.
func TestRecordFollowsTheLease(t *testing.T) {
	n, _ := newIssuing(t)
	n.mustPublish(t, n.request("v", "creds"))
	record := func() int64 { // lines are only added
		t.Helper()
		info, err := os.Stat(n.journal())
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := record()
	for _, change := range []struct {
		name    string
		do      func(*providers.Payload)
		written bool
	}{
		{"nothing", func(*providers.Payload) {}, false},
		{"what is left of it", func(p *providers.Payload) { p.Lease = &providers.Lease{ID: "L1", Duration: time.Minute} }, false},
		{"renewed", func(p *providers.Payload) { p.NotAfter = p.NotAfter.Add(time.Hour) }, true},
		{"another", func(p *providers.Payload) { p.Lease = &providers.Lease{ID: "L2", Duration: time.Hour} }, true},
		{"its token", func(p *providers.Payload) {
			p.Lease = &providers.Lease{ID: "L2", Duration: time.Hour, Alone: time.Now().Add(time.Hour)}
		}, true},
	} {
		change.do(&n.store.result.Payload)
		if _, err := n.Rotate(t.Context(), "v"); err != nil {
			t.Fatal(err)
		}
		after := record()
		if (after != before) != change.written {
			t.Errorf("%s: written %t", change.name, after != before)
		}
		before = after
	}
}

// TestPartsOfALease: after a restart two volumes that show parts of one credential are apart, and it is not released while
// one of them has it.
func TestPartsOfALease(t *testing.T) {
	n, l := newIssuing(t)
	for _, id := range []string{"a", "b"} {
		n.mustPublish(t, n.request(id, "[{name: creds, fields: [user]}]"))
	}
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if _, err := n.Rotate(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if got := n.store.reads[len(n.store.reads)-1].Own; got != id {
			t.Errorf("volume %s reads what %q owns", id, got)
		}
	}
	l.take()
	for i, id := range []string{"a", "b"} {
		if err := n.Unpublish(t.Context(), id, n.target(id)); err != nil {
			t.Fatal(err)
		}
		if told := l.take(); len(told) != i {
			t.Errorf("%s: told %q", id, told)
		}
	}
}
