package providertest

import (
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

func fetchValue(s *suite) {
	version := s.told(s.put("db", canary+"-1"))
	s.put("other", canary+"-2")
	s.wantValue(providers.Query{Name: "db"}, canary+"-1")
	p, _ := s.fetch(providers.Query{Name: "db"})
	if p.Version != version {
		s.Errorf("Version = %q, want %q", p.Version, version)
	}
}

func fetchFields(s *suite) {
	if !s.MultiField {
		s.Skip("a secret of the store has one field")
	}
	fields := map[string]string{"user": canary + "-user", "password": canary + "-password", "note": canary}
	s.Put("db", fields)
	s.wantFields(providers.Query{Name: "db"}, fields)
}

func fetchExactBytes(s *suite) {
	values := map[string]string{
		"unicode": canary + " Grüße, 世界 🔑",
		"spaces":  "  " + canary + " \t",
		"lines":   canary + "\nsecond\r\nlast\n",
		"quotes":  `{"` + canary + `": ["\u0041", 'b', ` + "`c`, $d, ${e}, %s, =]}",
		"number":  "0123456789012345678901234567890.10",
		"large":   strings.Repeat(canary, s.MaxValue/len(canary)),
	}
	if !s.NoEmpty {
		values["empty"] = ""
	}
	if s.Binary {
		values["binary"] = canary + "\x00\x01\x7f\x80\xfe\xff\xc3\x28\x00"
	}
	for name, value := range values {
		s.put(name, value)
	}
	for name, value := range values {
		p, err := s.fetch(providers.Query{Name: name})
		if err != nil {
			s.Errorf("fetch of the value %q: %v", name, err)
		} else if got := p.Fields[name]; !got.Equal(secret.FromString(value)) || len(p.Fields) != 1 {
			s.Errorf("value %q came back changed: %d fields, %d bytes, want %d", name, len(p.Fields), got.Len(), len(value))
		}
	}
}

func fetchReplaced(s *suite) {
	for i := range 3 {
		value := fmt.Sprintf("%s-%d", canary, i)
		version := s.told(s.put("db", value))
		s.wantValue(providers.Query{Name: "db"}, value)
		if p, _ := s.fetch(providers.Query{Name: "db"}); p.Version != version {
			s.Errorf("Version = %q, want %q", p.Version, version)
		}
	}
}

func fetchDeleted(s *suite) {
	s.put("db", canary)
	s.put("other", canary)
	s.wantValue(providers.Query{Name: "db"}, canary)
	s.Delete("db")
	s.wantKind(providers.Query{Name: "db"}, providers.NotFound)
	s.wantValue(providers.Query{Name: "other"}, canary)
}

func fetchMissing(s *suite) {
	s.wantKind(providers.Query{Name: "db"}, providers.NotFound)
	s.put("db", canary)
	for _, name := range []string{"d", "dbs", "no-such-secret"} {
		s.wantKind(providers.Query{Name: name}, providers.NotFound)
	}
}

// fetchHostileNames checks that a name is looked up as it is. A driver that puts it into a path or a URL unescaped
// reads another secret than the one that was authorised.
func fetchHostileNames(s *suite) {
	s.put("victim", canary)
	for _, name := range []string{
		"", ".", "..", "/", "/victim", "./victim", "victim/", "victim/.", "x/../victim", "x/..//victim", "../victim", "%2e%2e/victim",
		"victi%6d", "victim?", "victim?version=1", "victim#", "victim;x", "victim&x=1", "victim\x00", "victim\n", " victim", "victim ", "victim*", "*",
		`x\..\victim`, "victim=", "víctim", strings.Repeat("v", 70_000),
	} {
		p, err := s.fetch(providers.Query{Name: name})
		if err == nil {
			s.Errorf("Fetch of %.40q returned %d fields, want an error", name, len(p.Fields))
			continue
		}
		s.isKind(err, providers.NotFound, providers.Invalid, providers.Denied)
	}
	s.wantValue(providers.Query{Name: "victim"}, canary)
}

func fetchPayloadIsOwned(s *suite) {
	s.put("db", canary)
	p, err := s.fetch(providers.Query{Name: "db"})
	if err != nil {
		s.Fatalf("Fetch: %v", err)
	}
	p.Fields["db"] = secret.FromString("overwritten")
	p.Fields["added"] = secret.FromString("added")
	s.wantValue(providers.Query{Name: "db"}, canary)
}

// fetchOtherMetadata checks that request metadata that the store does not know changes nothing, as in Dapr.
func fetchOtherMetadata(s *suite) {
	s.put("db", canary)
	s.wantValue(providers.Query{Name: "db", Metadata: map[string]string{"no-such-key": "x"}}, canary)
}

// fetchKnown checks that content is called unchanged only if it is, and never without being asked.
func fetchKnown(s *suite) {
	first := s.told(s.put("db", canary+"-1"))
	if first == "" {
		s.Skip("payloads of the store have no version")
	}
	p, err := s.fetch(providers.Query{Name: "db", Known: first})
	switch {
	case err != nil:
		s.Errorf("Fetch of a known secret: %v", err)
	case p.Unchanged != s.Compares:
		s.Errorf("Fetch of a known version: Unchanged is %t, the harness says %t", p.Unchanged, s.Compares)
	case p.Version != first:
		s.Errorf("Version = %q, want %q", p.Version, first)
	case p.Unchanged && len(p.Fields) > 0:
		s.Error("unchanged content has fields")
	}
	s.put("db", canary+"-2")
	s.wantValue(providers.Query{Name: "db", Known: first}, canary+"-2")
	s.put("other", canary)
	if p, _ := s.fetch(providers.Query{Name: "other"}); p.Unchanged {
		s.Error("content that nobody knows is called unchanged")
	}
	s.Delete("db")
	s.wantKind(providers.Query{Name: "db", Known: first}, providers.NotFound)
}

func selectVersion(s *suite) {
	first := s.put("db", canary+"-1")
	if s.UnknownVersion == "" {
		s.wantKind(providers.Query{Name: "db", Version: "1"}, providers.Invalid)
		return
	}
	second := s.put("db", canary+"-2")
	if first == second || first == "" {
		s.Fatalf("version ids %q and %q do not tell the versions apart", first, second)
	}
	s.wantValue(providers.Query{Name: "db", Version: first}, canary+"-1")
	s.wantValue(providers.Query{Name: "db", Version: second}, canary+"-2")
	s.wantKind(providers.Query{Name: "db", Version: s.UnknownVersion}, providers.NotFound)
	if p, _ := s.fetch(providers.Query{Name: "db", Version: first}); p.Version != first {
		s.Errorf("Version = %q, want %q", p.Version, first)
	}
}

func selectStage(s *suite) {
	s.put("db", canary+"-1")
	if s.CurrentStage == "" {
		s.wantKind(providers.Query{Name: "db", Stage: "current"}, providers.Invalid)
		return
	}
	s.put("db", canary+"-2")
	s.wantValue(providers.Query{Name: "db", Stage: s.CurrentStage}, canary+"-2")
	s.wantValue(providers.Query{Name: "db", Stage: s.PreviousStage}, canary+"-1")
}

func selectNamespace(s *suite) {
	s.put("db", canary+"-default")
	if s.PutIn == nil {
		s.wantKind(providers.Query{Name: "db", Namespace: "elsewhere"}, providers.Invalid)
		return
	}
	s.PutIn("elsewhere", "db", map[string]string{"db": canary + "-elsewhere"})
	s.PutIn("elsewhere", "there", map[string]string{"there": canary})
	s.wantValue(providers.Query{Name: "db", Namespace: "elsewhere"}, canary+"-elsewhere")
	s.wantValue(providers.Query{Name: "db"}, canary+"-default")
	s.wantKind(providers.Query{Name: "there"}, providers.NotFound)
}

func listEmpty(s *suite) {
	s.lister()
	if names, err := s.list(providers.Query{}); err != nil || len(names) != 0 {
		s.Errorf("List of an empty store = %q, %v", names, err)
	}
}

// listPages lists more than two pages and fetches every name.
func listPages(s *suite) {
	s.lister()
	var want []string
	for i := range 2*s.PageSize + 1 {
		name := fmt.Sprintf("page-%04d", i)
		want = append(want, name)
	}
	for i := range want { // backwards: a listing in the order of creation is not sorted
		s.put(want[len(want)-1-i], canary)
	}
	s.put("zz-deleted", canary)
	s.Delete("zz-deleted")
	s.put(want[0], canary+"-again")

	names, err := s.list(providers.Query{})
	if err != nil {
		s.Fatalf("List: %v", err)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		s.Fatalf("List mismatch (-want +got):\n%s", diff)
	}
	for i, name := range names {
		value := canary
		if i == 0 {
			value += "-again"
		}
		s.wantValue(providers.Query{Name: name}, value)
	}
}

func listNamespace(s *suite) {
	s.lister()
	s.put("db", canary)
	if s.PutIn == nil {
		names, err := s.list(providers.Query{Namespace: "elsewhere"})
		if err == nil {
			s.Fatalf("List in a namespace = %q, want an error: the store has none", names)
		}
		s.isKind(err, providers.Invalid)
		return
	}
	s.PutIn("elsewhere", "there", map[string]string{"there": canary})
	for namespace, want := range map[string][]string{"": {"db"}, "elsewhere": {"there"}} {
		names, err := s.list(providers.Query{Namespace: namespace})
		if diff := cmp.Diff(want, names); err != nil || diff != "" {
			s.Errorf("List in namespace %q: error %v, mismatch (-want +got):\n%s", namespace, err, diff)
		}
	}
}
