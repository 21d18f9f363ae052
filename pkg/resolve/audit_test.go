package resolve_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// canary is the secret that must appear nowhere.
const canary = "c4n4ry-s3cr3t"

// records decodes the audit log, without times and durations.
func records(t *testing.T, log string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(log) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		delete(record, "time")
		delete(record, "level")
		delete(record, "duration")
		all = append(all, record)
	}
	return all
}

// record returns what every record about alice and store "s" has, and more.
func record(msg string, more map[string]any) map[string]any {
	r := map[string]any{
		"msg": msg, "origin": "api", "store": "s",
		"namespace": "shop", "pod": "alice-1", "service_account": "alice", "app_id": "web",
	}
	for k, v := range more {
		if v != "" {
			r[k] = v
		}
	}
	return r
}

func allowed(secret, result, version string, cached, stale bool) map[string]any {
	return map[string]any{"secret": secret, "decision": "allow", "result": result, "version": version, "cached": cached, "stale": stale}
}

func TestAudit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log buffer
		f := newFixtureWith(t, resolve.Options{Audit: log.logger()}, resolve.Settings{})
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		f.want(read(t, "a"), "1", false, 1)
		f.wantKind(read(t, "x"), providers.NotFound, 1)
		f.wantKind(read(t, "x"), providers.NotFound, 1)
		if _, err := f.List(t.Context(), list(t)); err != nil {
			t.Fatal(err)
		}
		advance(time.Minute)
		f.store.Fail(down)
		f.want(read(t, "a"), "1", true, 3)
		f.wantKind(read(t, "y"), providers.Unavailable, 2)
		f.AuditBulk(t.Context(), "api", list(t).Grant, 3)
		denied := &scope.DeniedError{Rule: "policy.yaml:3: deny \"a\""}
		f.AuditDenied(t.Context(), "api", alice, scope.Ref{Store: "s", Name: "a", Version: "7"}, denied)
		f.AuditDenied(t.Context(), "api", alice, scope.Ref{Store: "s", Name: "a"}, scope.ErrStoreNotFound)
		f.Remove("s")
		f.wantKind(read(t, "z"), providers.Unavailable, 0)
		_, _ = f.Resolve(t.Context(), resolve.Request{}) // no grant, no read

		want := []map[string]any{
			record("secret read", allowed("a", "ok", "1", false, false)),
			record("secret read", allowed("a", "ok", "1", true, false)),
			record("secret read", allowed("x", "not found", "", false, false)),
			record("secret read", allowed("x", "not found", "", true, false)),
			record("secrets listed", allowed("", "ok", "", false, false)),
			record("secret read", allowed("a", "ok", "1", true, true)),
			record("secret read", allowed("y", "unavailable", "", false, false)),
			record("secrets read", map[string]any{"decision": "allow", "result": "ok", "secrets": 3.0, "cached": true}),
			record("read denied", map[string]any{"secret": "a", "decision": "deny", "version": "7", "rule": "policy.yaml:3: deny \"a\""}),
			record("read denied", map[string]any{"secret": "a", "decision": "deny", "version": "", "rule": "store not found"}),
			record("secret read", allowed("z", "unavailable", "", false, false)),
		}
		if diff := cmp.Diff(want, records(t, log.String())); diff != "" {
			t.Error(diff)
		}
	})
}

// A record with everything that there is fits, and a refusal that hides a store still says why.
func TestAuditInFull(t *testing.T) {
	var log buffer
	f := newFixtureWith(t, resolve.Options{Audit: log.logger()}, resolve.Settings{})
	ref := scope.Ref{Store: "s", Name: "a", Version: "1", Stage: "s", Namespace: "n"}
	_, _ = f.Resolve(t.Context(), readAs(t, alice, ref))
	hiding, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "s", AppIDs: []string{"other"}, Source: "x.yaml:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	_, refused := hiding.Authorize(alice, ref)
	f.AuditDenied(t.Context(), "api", alice, ref, refused)
	full := map[string]any{"secret": "a", "version": "1", "stage": "s", "store_namespace": "n"}
	read := record("secret read", full)
	maps.Copy(read, map[string]any{"decision": "allow", "result": "not found", "cached": false, "stale": false})
	denied := record("read denied", full)
	maps.Copy(denied, map[string]any{"decision": "deny", "rule": `x.yaml:1: the scopes of store "s" do not list app id "web"`})
	if diff := cmp.Diff([]map[string]any{read, denied}, records(t, log.String())); diff != "" {
		t.Error(diff)
	}
}

// full is a disk without space.
type full struct{ writes int }

func (f *full) Write([]byte) (int, error) {
	f.writes++
	return 0, errors.New("no space left")
}

func TestAuditThatFails(t *testing.T) {
	var log buffer
	var disk full
	reg := prometheus.NewPedanticRegistry()
	f := newFixtureWith(t, resolve.Options{Logger: log.logger(), Audit: slog.New(slog.NewJSONHandler(&disk, nil)), Registerer: reg}, resolve.Settings{})
	f.put("a", "1")
	for range 3 {
		f.want(read(t, "a"), "1", false, 1)
	}
	if n := strings.Count(log.String(), "audit records are being lost"); n != 1 || disk.writes != 3 {
		t.Errorf("said %d times after %d writes: %s", n, disk.writes, log.String())
	}
	if got := gather(t, reg)["audit_failures_total{}"]; got != 3 {
		t.Errorf("audit_failures_total is %v", got)
	}
}

// gather returns the registry's samples: name{label values} → value.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			name := fmt.Sprintf("%s{%s}", strings.TrimPrefix(family.GetName(), "keywell_resolve_"), strings.Join(labels, ","))
			samples[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return samples
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		f := newFixtureWith(t, resolve.Options{Registerer: reg}, resolve.Settings{})
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		f.want(read(t, "a"), "1", false, 1)
		f.wantKind(read(t, "x"), providers.NotFound, 1)
		f.wantKind(read(t, "x"), providers.NotFound, 1)
		advance(time.Minute)
		f.store.Fail(down)
		f.want(read(t, "a"), "1", true, 3)
		f.wantKind(read(t, "y"), providers.Unavailable, 2)
		f.wantKind(read(t, "y"), providers.Unavailable, 3) // opens the circuit

		// The label order is alphabetical: kind before store, result before store.
		want := map[string]float64{
			"reads_total{fetch,s}": 1, "reads_total{hit,s}": 1, "reads_total{stale,s}": 1, "reads_total{negative,s}": 1,
			"reads_total{error_not_found,s}": 1, "reads_total{error_unavailable,s}": 2,
			"store_calls_total{ok,s}": 1, "store_calls_total{not_found,s}": 1, "store_calls_total{unavailable,s}": 5,
			"store_call_seconds{s}": 7, "cache_entries{s}": 2, "breaker_state{s}": 2,
		}
		got := gather(t, reg)
		if got["cache_bytes{s}"] < 1000 {
			t.Errorf("cache_bytes is %v", got["cache_bytes{s}"])
		}
		delete(got, "cache_bytes{s}")
		for name, v := range got {
			if v == 0 {
				delete(got, name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		advance(5 * time.Second)
		if got := gather(t, reg)["breaker_state{s}"]; got != 1 {
			t.Errorf("breaker_state is %v after the pause", got)
		}
		f.Remove("s")
		f.wantKind(read(t, "y"), providers.Unavailable, 3)
		if diff := cmp.Diff(map[string]float64{"closed_reads_total{}": 1, "audit_failures_total{}": 0}, gather(t, reg)); diff != "" {
			t.Errorf("after Remove: %s", diff)
		}
	})
}

func TestNoValueLeaks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var out buffer
		logger := out.logger()
		reg := prometheus.NewRegistry()
		f := newFixtureWith(t, resolve.Options{Logger: logger, Audit: logger, Registerer: reg}, resolve.Settings{CacheTTL: time.Second})
		f.put("a", canary)
		f.put("b", canary)
		show := func(res resolve.Result, err error) {
			fmt.Fprintf(&out, "%v %+v %#v\n", res, res, err)
			if err != nil {
				fmt.Fprintln(&out, err, errors.Unwrap(err))
			}
			if err := json.NewEncoder(&out).Encode(res); err != nil {
				t.Error(err)
			}
			logger.Info("result", "result", res, "err", err)
		}
		for _, fault := range []error{nil, down, providers.Errorf(providers.Throttled, "slow down"), providers.Errorf(providers.Denied, "no")} {
			f.store.Fail(fault)
			show(f.Resolve(t.Context(), read(t, "a")))
			show(f.Resolve(t.Context(), read(t, "b")))
			advance(time.Minute)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			fmt.Fprintln(&out, family.String())
		}
		for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprint([]byte(canary))} {
			if strings.Contains(out.String(), form) {
				t.Errorf("the value leaked as %q", form)
			}
		}
		if !strings.Contains(out.String(), "secret read") || !strings.Contains(out.String(), "keywell_resolve_reads_total") {
			t.Error("nothing was recorded: the test looked at nothing")
		}
	})
}
