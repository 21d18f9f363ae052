package localenv_test

import (
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/localenv"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/secret"
)

// environment is the environment of a process, which tests can change.
type environment struct {
	mu   sync.Mutex
	vars map[string]string
}

func (e *environment) set(name, value string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vars[name] = value
}

func (e *environment) unset(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.vars, name)
}

func (e *environment) environ() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var entries []string
	for name, value := range e.vars {
		entries = append(entries, name+"="+value)
	}
	return entries
}

func TestConformance(t *testing.T) {
	for _, prefix := range []string{"", "APP_"} {
		t.Run("prefix="+prefix, func(t *testing.T) {
			providertest.Run(t, providertest.Harness{
				Lists: true,
				Open: func(t *testing.T, log *slog.Logger) providertest.Store {
					env := &environment{vars: map[string]string{}}
					return providertest.Store{
						Provider: open(t, localenv.DriverOf(env.environ), prefix, log),
						Put: func(name string, fields map[string]string) string {
							env.set(prefix+name, fields[name])
							return ""
						},
						Delete: func(name string) { env.unset(prefix + name) },
						Faults: map[providers.Kind]func(string){
							providers.NotFound: func(name string) { env.unset(prefix + name) },
						},
					}
				},
			})
		})
	}
}

func open(t *testing.T, d providers.Driver, prefix string, log *slog.Logger) providers.Provider {
	t.Helper()
	p, err := d.Open(t.Context(), providers.Config{
		Name:       "env",
		Properties: providers.Properties{"prefix": secret.FromString(prefix)},
		Logger:     log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestWithheld(t *testing.T) {
	vars := []string{"PATH=/bin", "DAPR_TOKEN=1", "dapr_lower=2", "APP_API_TOKEN=3", "APP_DB=4", "KEYWELL_X=5", "XDAPR_OK=6", "=hidden=7", "malformed"}
	d := localenv.DriverOf(func() []string { return vars })
	for name, tt := range map[string]struct {
		prefix, name string
		want         providers.Kind // Unknown: it is shown
	}{
		"plain":                {"", "PATH", providers.Unknown},
		"only a prefix counts": {"", "XDAPR_OK", providers.Unknown},
		"dapr":                 {"", "DAPR_TOKEN", providers.Denied},
		"dapr in lower case":   {"", "dapr_lower", providers.Denied},
		"dapr, not set":        {"", "DAPR_UNSET", providers.Denied},
		"app token":            {"", "APP_API_TOKEN", providers.Denied},
		"app token by prefix":  {"APP_", "API_TOKEN", providers.Denied},
		"dapr by prefix":       {"DA", "PR_TOKEN", providers.Denied},
		"own settings":         {"", "KEYWELL_X", providers.Denied},
		"case matters":         {"", "path", providers.NotFound},
		"no name":              {"PATH", "", providers.NotFound},
		"no variable name":     {"", "", providers.NotFound},
		"no value":             {"", "malformed", providers.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := open(t, d, tt.prefix, slog.New(slog.DiscardHandler)).Fetch(t.Context(), providers.Query{Name: tt.name})
			if (err == nil) != (tt.want == providers.Unknown) || providers.KindOf(err) != tt.want {
				t.Errorf("Fetch = %d fields, error %v of kind %v, want %v", len(p.Fields), err, providers.KindOf(err), tt.want)
			}
		})
	}
}

func TestList(t *testing.T) {
	vars := []string{"B=2", "A=1", "APP_B=3", "APP_=4", "APP_A=", "APP_API_TOKEN=5", "DAPR_X=6", "KEYWELL_X=7", "malformed"}
	d := localenv.DriverOf(func() []string { return vars })
	for prefix, want := range map[string][]string{
		"":       {"A", "APP_", "APP_A", "APP_B", "B"},
		"APP_":   {"A", "B"},
		"DAPR_":  nil,
		"OTHER_": nil,
	} {
		got, err := open(t, d, prefix, nil).(providers.Lister).List(t.Context(), providers.Query{})
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("prefix %q: error %v, mismatch (-want +got):\n%s", prefix, err, diff)
		}
	}
}

func TestProcessEnvironment(t *testing.T) {
	t.Setenv("LOCALENV_TEST", "value")
	p := open(t, localenv.Driver(), "LOCALENV_", nil)
	payload, err := p.Fetch(t.Context(), providers.Query{Name: "TEST"})
	if err != nil || !payload.Fields["TEST"].Equal(secret.FromString("value")) {
		t.Errorf("Fetch: %d fields, %v", len(payload.Fields), err)
	}
	names, err := p.(providers.Lister).List(t.Context(), providers.Query{})
	if err != nil || !slices.Contains(names, "TEST") {
		t.Errorf("List = %q, %v", names, err)
	}
}

func TestDriver(t *testing.T) {
	d := localenv.Driver()
	if d.Type != "secretstores.local.env" || !d.MissingIsEmpty || d.MultipleKeyValues != nil {
		t.Errorf("driver is %+v", d)
	}
}
