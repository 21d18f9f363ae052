package stores_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/stores"
)

func equal[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestOpenReplaceRemove(t *testing.T) {
	run(t, []string{"a", "b"}, func(f *fixture) {
		f.apply(store("a"), store("b"))
		equal(t, "state", "a: open\nb: open", f.reasons())
		f.resolver.take()

		moved := store("a")
		moved.Position.Line, moved.Scopes = 50, []string{"shop"}
		f.apply(moved, store("b", value("password", "new")))
		equal(t, "only what changed is opened again", "+b", f.resolver.take())

		f.apply(store("b", value("password", "new")))
		equal(t, "what is gone is removed, the rest untouched", "-a", f.resolver.take())
		equal(t, "opens of b", []string{"", "new"}, f.backends["b"].opens())

		other := store("b", value("password", "new"))
		other.Type = "secretstores.twin"
		f.apply(other)
		equal(t, "another type", "+b", f.resolver.take())
	})
}

func TestStatus(t *testing.T) {
	run(t, []string{"a"}, func(f *fixture) {
		c := store("a", value("multi", "true"))
		c.Namespace, c.Version, c.Scopes = "payments", "v1", []string{"shop"}
		f.apply(c)
		equal(t, "status", []stores.Status{{
			Key: "a", Name: "a", Namespace: "payments", Type: "secretstores.fake", Version: "v1", Scopes: []string{"shop"},
			Capabilities: []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}, MissingIsEmpty: true, Open: true,
		}}, f.set.Status())
	})
}

func TestReadyAfterTheFirstApply(t *testing.T) {
	run(t, []string{"slow"}, func(f *fixture) {
		release := make(chan struct{})
		f.backends["slow"].during(func(context.Context) error { <-release; return nil })
		f.set.Changed("slow", "")
		synctest.Wait()
		select {
		case <-f.set.Ready():
			t.Error("ready before anything was applied")
		default:
		}
		f.apply(store("slow"), store("nowhere"))
		select {
		case <-f.set.Ready():
			t.Error("ready before everything was tried")
		default:
		}
		close(release)
		<-f.set.Ready()
		equal(t, "opened", "+slow", f.resolver.take())
	})
}

// TestReferences: chains open whatever the order, with values from manifests, environment and other stores.
func TestReferences(t *testing.T) {
	run(t, []string{"source", "middle", "end"}, func(f *fixture) {
		f.backends["source"].set("db", "password", canary+"1")
		f.backends["middle"].set("end", "end", canary+"2")
		f.env["ADDRESS"] = "source"
		source := store("source")
		source.Metadata = []component.Item{env("Address", "ADDRESS")}
		middle := store("middle", ref("Password", "db", "password"))
		end := store("end", ref("password", "end", "end"))
		end.SecretStore = "middle"
		f.apply(end, middle, source)
		equal(t, "order", "+source +middle +end", f.resolver.take())
		equal(t, "middle", []string{canary + "1"}, f.backends["middle"].opens())
		equal(t, "end", []string{canary + "2"}, f.backends["end"].opens())
		if strings.Contains(f.log.String(), "not as wanted") {
			t.Errorf("a store was tried before the one that it refers to:\n%s", f.log.String())
		}
	})
}

// TestClosed holds what keeps a store closed, and how it says so.
func TestClosed(t *testing.T) {
	tests := []struct {
		name   string
		store  func() component.Component
		others []component.Component
		rules  []scope.AccessRule
		want   string
	}{
		{"unknown type", func() component.Component { c := store("s"); c.Type = "secretstores.fak"; return c }, nil, nil,
			`s.yaml:1: spec.type: couldn't find secret store secretstores.fak/v1; write "secretstores.fake"`},
		{"faulty configuration", func() component.Component { return store("s", value("host", "x"), value("address", "nowhere")) }, nil, nil,
			`s.yaml:1: open store "s": no backend there; correct the manifest`},
		{"no auth.secretStore", func() component.Component { c := store("s", ref("password", "n", "k")); c.SecretStore = ""; return c }, nil, nil,
			`m.yaml:9: secretKeyRef of password: does not say which store to read from; name the store in auth.secretStore`},
		{"unknown store", func() component.Component { return store("s", ref("password", "n", "k")) }, nil, nil,
			`m.yaml:9: secretKeyRef of password: store "source" of auth.secretStore does not exist; correct the name, or add a component for it`},
		{"own store", func() component.Component { c := store("s", ref("password", "n", "k")); c.SecretStore = "s"; return c }, nil, nil,
			`m.yaml:9: secretKeyRef of password: stores refer to each other in a circle: s → s; give one of them its credentials in another way`},
		{"circle", func() component.Component { return store("s", ref("password", "n", "k")) },
			[]component.Component{func() component.Component {
				c := store("source", ref("password", "n", "k"))
				c.SecretStore = "s"
				return c
			}()}, nil,
			`m.yaml:9: secretKeyRef of password: stores refer to each other in a circle: s → source → s; give one of them its credentials in another way`},
		{"closed store", func() component.Component { return store("s", ref("password", "n", "k")) },
			[]component.Component{func() component.Component { c := store("source"); c.Type = "secretstores.other"; return c }()}, nil,
			`m.yaml:9: secretKeyRef of password: store "source" of auth.secretStore is not open; see why that store is closed; it is tried again by itself`},
		{"missing secret", func() component.Component { return store("s", ref("password", "n", "k")) }, []component.Component{store("source")}, nil,
			`m.yaml:9: secretKeyRef of password: read reference: no such secret; correct the reference; it is tried again by itself`},
		{"missing field", func() component.Component { return store("s", ref("password", "db", "k")) }, []component.Component{store("source")}, nil,
			`m.yaml:9: secretKeyRef of password: secret "db" of store "source" has no field "k", or an empty one; correct the name or key, or fill the field; it is tried again by itself`},
		{"empty field", func() component.Component { return store("s", ref("password", "void", "void")) }, []component.Component{store("source")}, nil,
			`m.yaml:9: secretKeyRef of password: secret "void" of store "source" has no field "void", or an empty one; correct the name or key, or fill the field; it is tried again by itself`},
		{"denied", func() component.Component {
			c := store("s", ref("password", "db", "password"))
			c.Namespace = "payments"
			return c
		},
			[]component.Component{store("source")},
			[]scope.AccessRule{{Subjects: []scope.Subject{{}}, Stores: []string{"source"}, Deny: []string{"d*"}, Source: "p.yaml:3"}},
			`m.yaml:9: secretKeyRef of password: the policy denies the reference: p.yaml:3: deny "d*"; allow it in an AccessPolicy, or refer to another secret`},
		{"variable not set", func() component.Component { return store("s", env("password", "NONE")) }, nil, nil,
			`m.yaml:9: envRef of password: environment variable "NONE" is not set, or empty; set it for the agent and restart it`},
		{"variable of Dapr", func() component.Component { return store("s", env("password", "dapr_api_token")) }, nil, nil,
			`m.yaml:9: envRef of password: environment variable "dapr_api_token" may not be used; use one that does not start with DAPR_, is not APP_API_TOKEN and, where DAPR_ENV_KEYS is set, is listed there`},
		{"setting", func() component.Component { return store("s", value("CacheTTL", canary)) }, nil, nil,
			`m.yaml:9: cacheTTL: has a value that does not work; write a duration such as 30s, or 0s for no cache`},
		{"identity", func() component.Component { return store("s", value("identity", "pod")) }, nil, nil,
			`m.yaml:9: identity: has a value that does not work; write agent`},
		{"identity of a store that has both", func() component.Component {
			c := store("s", value("identity", "Pod"))
			c.Type = "secretstores.twin"
			return c
		}, nil, nil, `m.yaml:9: identity: has a value that does not work; write agent or pod`},
		{"identity by reference", func() component.Component { return store("s", env("identity", "WHO")) }, nil, nil,
			`m.yaml:9: identity: is a reference; write the value itself`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run(t, []string{"s", "source"}, func(f *fixture) {
				f.backends["source"].set("db", "password", canary)
				f.backends["source"].set("void", "void", "")
				f.backends["source"].secrets["db"] = map[string]string{"password": canary}
				f.rules.Policies = tt.rules
				f.apply(append(tt.others, tt.store())...)
				if s, tried := f.set.Find("s"); !tried || s.Open || s.Reason != tt.want {
					t.Errorf("tried %v, open %v, reason\n%s\nwant\n%s", tried, s.Open, s.Reason, tt.want)
				}
				if _, ok := f.resolver.installed["s"]; ok {
					t.Error("installed")
				}
			})
		})
	}
}

func TestEnvKeys(t *testing.T) {
	run(t, []string{"a", "b", "c"}, func(f *fixture) {
		f.env = map[string]string{"DAPR_ENV_KEYS": "ONE TWO", "ONE": "1", "TWO": "2", "THREE": "3", "TW": "4"}
		f.apply(store("a", env("password", "TWO")), store("b", env("password", "THREE")), store("c", env("password", "TW")))
		equal(t, "opened", "+a", f.resolver.take())
	})
}

// TestRetry: a cause that may pass is tried again with growing pauses, another one is not.
func TestRetry(t *testing.T) {
	run(t, []string{"away", "bad", "busy"}, func(f *fixture) {
		var attempts []time.Duration
		start := time.Now()
		f.backends["away"].during(func(context.Context) error {
			attempts = append(attempts, time.Since(start))
			if len(attempts) < 4 {
				return providers.Errorf(providers.Unavailable, "connection refused")
			}
			return nil
		})
		bad, busy := 0, 0
		f.backends["bad"].during(func(context.Context) error {
			bad++
			return providers.Errorf(providers.Denied, "wrong password")
		})
		f.backends["busy"].during(func(context.Context) error {
			busy++
			return &providers.Error{Kind: providers.Throttled, RetryAfter: time.Hour, Err: context.Canceled}
		})
		f.apply(store("away"), store("bad"), store("busy"))
		f.pass(10 * time.Minute)
		spread := cmpopts.EquateApprox(0.12, 0) // jitter
		if diff := cmp.Diff([]float64{0, 1, 3, 7}, seconds(attempts), spread); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		equal(t, "away", "+away", f.resolver.take())
		equal(t, "attempts at the bad and the busy one", []int{1, 1}, []int{bad, busy})

		f.backends["bad"].during(nil)
		f.apply(store("away"), store("bad"), store("busy"))
		equal(t, "a new state tries what is wrong, and nothing else", "+bad", f.resolver.take())
	})
}

func seconds(all []time.Duration) []float64 {
	var s []float64
	for _, d := range all {
		s = append(s, d.Seconds())
	}
	return s
}

func TestInitTimeout(t *testing.T) {
	run(t, []string{"stuck", "late"}, func(f *fixture) {
		f.backends["stuck"].during(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		f.backends["late"].during(func(ctx context.Context) error { <-ctx.Done(); return nil }) // it returns as if in time
		f.apply(store("stuck"), store("late"))
		<-f.set.Ready()
		equal(t, "opened", "", f.resolver.take())
		const reason = "context deadline exceeded; check that the store can be reached; it is tried again by itself"
		equal(t, "state", "late: closed: late.yaml:1: open store \"late\": "+reason+"\nstuck: closed: stuck.yaml:1: open store \"stuck\": "+reason, f.reasons())
		f.backends["stuck"].during(nil)
		f.backends["late"].during(nil)
		f.pass(time.Minute)
		equal(t, "state", "late: open\nstuck: open", f.reasons())
	})
}

// TestSlowStoreHoldsUpNoOther: while one store takes its time to open, the others come and go.
func TestSlowStoreHoldsUpNoOther(t *testing.T) {
	run(t, []string{"slow", "a", "b"}, func(f *fixture) {
		opening := 0
		f.backends["slow"].during(func(ctx context.Context) error { opening++; <-ctx.Done(); return ctx.Err() })
		begun := time.Now()
		f.backends["a"].set("x", "x", "")
		f.apply(store("slow"), store("a"))
		f.apply(store("slow"), store("b"))
		equal(t, "events", "+a -a +b", f.resolver.take())
		f.apply(store("slow", value("password", "changed")), store("b", value("password", "changed")))
		equal(t, "events", "+b", f.resolver.take())
		if time.Since(begun) != 0 {
			t.Errorf("took %v", time.Since(begun))
		}
		f.backends["slow"].during(nil)
		f.pass(6 * time.Second)
		equal(t, "what is wanted by then is opened", "+slow", f.resolver.take())
		equal(t, "opens", []string{"changed"}, f.backends["slow"].opens())
		if opening != 1 {
			t.Errorf("opened %d times at once", opening)
		}

		f.backends["slow"].during(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		f.apply(store("slow"))
		f.apply() // while it is opened
		equal(t, "events", "-b -slow", sorted(f.resolver.take()))
		f.pass(time.Minute)
		equal(t, "what is gone stays gone", "", f.resolver.take())
	})
}

// TestManifestThatChangesMeanwhile: what was opened for a manifest that is not wanted any more is never in service.
func TestManifestThatChangesMeanwhile(t *testing.T) {
	run(t, []string{"a"}, func(f *fixture) {
		release := make(chan struct{})
		f.backends["a"].during(func(context.Context) error { <-release; return nil })
		f.apply(store("a"))
		f.apply(store("a", value("password", "changed")))
		close(release)
		synctest.Wait()
		equal(t, "events", "+a", f.resolver.take())
		equal(t, "opens", []string{"", "changed"}, f.backends["a"].opens())
	})
}

// TestDriverThatDoesNotReturn: it is not called again before it does, and what it brings then is closed (see run).
func TestDriverThatDoesNotReturn(t *testing.T) {
	run(t, []string{"deaf"}, func(f *fixture) {
		calls, release := 0, make(chan struct{})
		f.backends["deaf"].during(func(context.Context) error { calls++; <-release; return nil })
		f.apply(store("deaf"))
		f.pass(time.Hour)
		equal(t, "calls", 1, calls)
		equal(t, "state", `deaf: closed: deaf.yaml:1: open store "deaf": an earlier attempt has not come back; check that the store can be reached; it is tried again by itself`, f.reasons())
		close(release)
		f.pass(2 * time.Minute)
		equal(t, "state", "deaf: open", f.reasons())
	})
}

func TestDriverThatPanics(t *testing.T) {
	run(t, []string{"a"}, func(f *fixture) {
		f.backends["a"].during(func(context.Context) error { panic(canary) })
		f.apply(store("a"))
		equal(t, "state", `a: closed: a.yaml:1: open store "a": driver panicked; correct the manifest`, f.reasons())
	})
}

// TestStatusTellsWhatIsInService: where the wanted type can't be had, callers meet the one before.
func TestStatusTellsWhatIsInService(t *testing.T) {
	run(t, []string{"a"}, func(f *fixture) {
		f.apply(store("a"))
		broken := store("a", env("password", "NONE"))
		broken.Type = "secretstores.plain"
		f.apply(broken)
		got := f.set.Status()[0]
		if got.Type != "secretstores.fake" || !got.MissingIsEmpty || !got.Open || got.Reason == "" {
			t.Errorf("status %+v", got)
		}
		broken.Name = "b"
		f.apply(broken)
		if got := f.set.Status()[0]; got.Type != "secretstores.plain" || got.MissingIsEmpty || got.Open {
			t.Errorf("status %+v", got)
		}
	})
}

func sorted(events string) string {
	all := strings.Fields(events)
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestBadReplacementKeepsTheLastGoodInstance(t *testing.T) {
	run(t, []string{"a"}, func(f *fixture) {
		f.apply(store("a"))
		f.resolver.take()
		f.apply(store("a", env("password", "NONE")))
		equal(t, "state", `a: open: m.yaml:9: envRef of password: environment variable "NONE" is not set, or empty; set it for the agent and restart it`, f.reasons())
		f.apply(store("a"))
		equal(t, "state", "a: open", f.reasons())
		equal(t, "events", "", f.resolver.take())
	})
}

// TestPolicyIsAskedAgain: a new state comes with a new policy, which also decides about the references of open stores.
func TestPolicyIsAskedAgain(t *testing.T) {
	run(t, []string{"source", "a"}, func(f *fixture) {
		f.backends["source"].set("x", "x", canary)
		a := store("a", ref("password", "x", "x"))
		a.Namespace = "payments"
		f.apply(store("source"), a)
		equal(t, "state", "a: open\nsource: open", f.reasons())
		f.rules.Policies = []scope.AccessRule{{Subjects: []scope.Subject{{}}, Stores: []string{"*"}, Deny: []string{"x"}, Source: "p.yaml:3"}}
		f.apply(store("source"), a)
		equal(t, "state", "a: open: m.yaml:9: secretKeyRef of password: the policy denies the reference: p.yaml:3: deny \"x\"; "+
			"allow it in an AccessPolicy, or refer to another secret\nsource: open", f.reasons())
	})
}

func TestChangedSecretReopensDependents(t *testing.T) {
	run(t, []string{"source", "a", "b"}, func(f *fixture) {
		f.backends["source"].set("x", "x", canary+"1")
		f.backends["source"].set("y", "y", canary+"1")
		f.apply(store("source"), store("a", ref("password", "x", "x")), store("b", ref("password", "y", "y")))
		f.resolver.take()

		f.backends["source"].set("x", "x", canary+"2")
		f.set.Changed("source", "y")
		f.set.Changed("other", "x")
		synctest.Wait()
		equal(t, "events after a change of others", "", f.resolver.take())

		f.set.Changed("source", "x")
		synctest.Wait()
		equal(t, "events", "+a", f.resolver.take())
		equal(t, "opens", []string{canary + "1", canary + "2"}, f.backends["a"].opens())

		f.backends["source"].set("y", "y", "")
		f.set.Changed("source", "")
		synctest.Wait()
		equal(t, "a reference that breaks closes nothing", "", f.resolver.take())
		f.backends["source"].set("y", "y", canary+"3")
		f.pass(time.Minute)
		equal(t, "and is tried again", "+b", f.resolver.take())
	})
}

// TestReferencesAreReadAgain: stores that say nothing of changes are asked at their refresh interval.
func TestReferencesAreReadAgain(t *testing.T) {
	run(t, []string{"source", "a"}, func(f *fixture) {
		f.resolver.refresh = time.Minute
		f.backends["source"].set("x", "x", canary+"1")
		f.apply(store("source"), store("a", ref("password", "x", "x")))
		f.resolver.take()
		f.backends["source"].set("x", "x", canary+"2")
		f.pass(2 * time.Minute)
		equal(t, "events", "+a", f.resolver.take())
	})
}

func TestSourceThatOpensLaterOpensDependents(t *testing.T) {
	run(t, []string{"source", "a"}, func(f *fixture) {
		f.backends["source"].set("x", "x", canary)
		f.backends["source"].during(func(context.Context) error { return providers.Errorf(providers.Unavailable, "starting") })
		f.apply(store("a", ref("password", "x", "x")), store("source"))
		equal(t, "events", "", f.resolver.take())
		f.pass(10 * time.Minute) // the pauses have grown, each to another length
		f.backends["source"].during(nil)
		events := ""
		for events == "" {
			f.pass(10 * time.Millisecond)
			events = f.resolver.take()
		}
		equal(t, "events", "+source +a", events)
	})
}

func TestSettings(t *testing.T) {
	run(t, []string{"a", "b"}, func(f *fixture) {
		f.env["TTL"] = "30s"
		f.apply(
			store("a", value("refreshInterval", "2m"), env("cacheTTL", "TTL"), value("negativettl", "1s"), value("staleFor", "2h"),
				value("requestTimeout", "3s"), value("requestsPerSecond", "1.5"), value("burst", "7"), value("maxEntries", "8"),
				value("maxBytes", "9"), value("identity", "agent")),
			store("b", value("cacheTTL", "0s"), value("negativeTTL", "0s"), value("staleFor", "0s"), value("burst", "")))
		equal(t, "state", "a: open\nb: open", f.reasons())
		a, b := f.resolver.installed["a"].Settings, f.resolver.installed["b"].Settings
		equal(t, "durations of a", []time.Duration{2 * time.Minute, 30 * time.Second, time.Second, 2 * time.Hour, 3 * time.Second},
			[]time.Duration{a.RefreshInterval, a.CacheTTL, a.NegativeTTL, a.StaleFor, a.RequestTimeout})
		equal(t, "numbers of a", []float64{1.5, 7, 8, 9}, []float64{a.RequestsPerSecond, float64(a.Burst), float64(a.MaxEntries), float64(a.MaxBytes)})
		equal(t, "zeros of b", []time.Duration{1, 1, -1}, []time.Duration{b.CacheTTL, b.NegativeTTL, b.StaleFor})
	})
}

// TestPerIdentity: answers of a store that authorises pods itself must not be shared among them.
func TestPerIdentity(t *testing.T) {
	run(t, []string{"a", "b"}, func(f *fixture) {
		a, b := store("a"), store("b", value("Identity", "pod"))
		a.Type, b.Type = "secretstores.twin", "secretstores.twin"
		f.apply(a, b)
		equal(t, "state", "a: open\nb: open", f.reasons())
		equal(t, "per identity", []bool{false, true},
			[]bool{f.resolver.installed["a"].Settings.PerIdentity, f.resolver.installed["b"].Settings.PerIdentity})
		equal(t, "told to the driver", []providers.Identity{providers.AsAgent, providers.AsPod},
			[]providers.Identity{f.backends["a"].identity, f.backends["b"].identity})
		equal(t, "told to the policy", []bool{false, true},
			[]bool{stores.PodAuthorized(a, f.drivers()), stores.PodAuthorized(b, f.drivers())})

		a = store("a", value("identity", "pod"))
		a.Type = "secretstores.twin"
		f.apply(a, b)
		equal(t, "per identity after a change", true, f.resolver.installed["a"].Settings.PerIdentity)
	})
}

// TestIdentityThatCannotBe: a component that doesn't open as it is written must not open the policy either.
func TestIdentityThatCannotBe(t *testing.T) {
	for name, c := range map[string]component.Component{
		"the driver lacks it": store("s", value("identity", "pod")),
		"reference":           store("s", env("identity", "TTL")),
		"unknown":             store("s", value("identity", "node")),
		"type is unknown":     {Name: "s", Type: "secretstores.unheard.of"},
	} {
		t.Run(name, func(t *testing.T) {
			drivers := (&fixture{}).drivers()
			if name != "the driver lacks it" && name != "type is unknown" {
				c.Type = "secretstores.twin"
			}
			if stores.PodAuthorized(c, drivers) {
				t.Error("pods are let in")
			}
			if problems := stores.Check([]component.Component{c}, drivers); !component.HasErrors(problems) {
				t.Errorf("no error among %v", problems)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	source := store("source", value("adress", "x"), value("requestTimeOut", "0s"), value("somethingElse", canary))
	circle := store("c1", ref("password", "n", "k"))
	circle.SecretStore = "c2"
	back := store("c2", ref("password", "n", "k"))
	back.SecretStore = "c1"
	plain := store("plain", value("password", canary))
	plain.Metadata[0].Name = "HOST"
	incomplete := store("incomplete", ref("password", "n", "k"))
	incomplete.Metadata = incomplete.Metadata[1:]
	other := store("other")
	other.Type = "secretstores.unheard.of"
	var got []string
	for _, p := range stores.Check([]component.Component{source, circle, back, plain, incomplete, other}, (&fixture{}).drivers()) {
		got = append(got, p.String())
	}
	equal(t, "problems", []string{
		`warning: m.yaml:9: spec.metadata: "adress" is not known to secretstores.fake and ignored; write "address", or remove it`,
		`warning: m.yaml:9: spec.metadata: "somethingElse" is not known to secretstores.fake and ignored; remove it; known here: address, password, refreshInterval, cacheTTL, negativeTTL, staleFor, requestTimeout, requestsPerSecond, burst, maxEntries, maxBytes, identity`,
		`error: m.yaml:9: requestTimeout: has a value that does not work; write a duration such as 30s`,
		`error: m.yaml:9: secretKeyRef of password: stores refer to each other in a circle: c1 → c2 → c1; give one of them its credentials in another way`,
		`error: m.yaml:9: secretKeyRef of password: stores refer to each other in a circle: c2 → c1 → c2; give one of them its credentials in another way`,
		`warning: m.yaml:9: spec.metadata: "password" is a credential, written in plain; keep it in a store and write a secretKeyRef, or use envRef`,
		`error: incomplete.yaml:1: spec.metadata: "address" is required by secretstores.fake; add it`,
		`error: other.yaml:1: spec.type: couldn't find secret store secretstores.unheard.of/v1; write a type that this agent has: secretstores.fake, secretstores.plain, secretstores.twin`,
	}, got)
}

// TestPlugins has a type that nobody knows become known later, and keep what its manifest writes as it is written.
func TestPlugins(t *testing.T) {
	run(t, []string{"a"}, func(f *fixture) {
		c := store("a", value("vaultAddr", "x"))
		c.Type = "secretstores.mine"
		f.apply(c)
		if got := f.reasons(); !strings.Contains(got, "a: closed") || !strings.Contains(got, "couldn't find secret store secretstores.mine/v1") {
			t.Errorf("without a plugin: %s", got)
		}
		var written map[string]string
		plugin := f.driver()
		plugin.Type, plugin.AnyProperties = c.Type, true
		open := plugin.Open
		plugin.Open = func(ctx context.Context, cfg providers.Config) (providers.Provider, error) {
			written = cfg.Written
			return open(ctx, cfg)
		}
		f.plugins = map[string]providers.Driver{c.Type: plugin}
		f.pass(time.Hour)
		if got := f.reasons(); !strings.Contains(got, "a: closed") {
			t.Errorf("before anybody said that there is something new: %s", got)
		}
		f.set.Retry()
		synctest.Wait()
		equal(t, "with the plugin", "a: open", f.reasons())
		equal(t, "a property's name", "vaultAddr", written["vaultaddr"])
		f.resolver.take()
		f.set.Retry()
		synctest.Wait()
		equal(t, "what is open is left alone", "", f.resolver.take())
		for _, p := range stores.Check([]component.Component{c}, append(f.drivers(), plugin)) {
			t.Errorf("problem: %v", p)
		}
	})
}
