package providertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// notifyChanges checks that a secret that is created, changed or deleted is reported, and not before Fetch shows it.
// The first change is made the moment Notify is entered.
func notifyChanges(s *suite) {
	w := s.notify()
	defer w.end(s)
	w.expect(s, func() { s.put("db", canary+"-1") }, "db", map[string]string{"db": canary + "-1"})
	w.expect(s, func() { s.put("db", canary+"-2") }, "db", map[string]string{"db": canary + "-2"})
	w.expect(s, func() { s.put("other", canary) }, "other", map[string]string{"other": canary})
	w.expect(s, func() { s.Delete("db") }, "db", nil)
	w.expect(s, func() { s.put("db", canary+"-3") }, "db", map[string]string{"db": canary + "-3"})
}

// notifyMany checks that no change of many in a row is missed.
func notifyMany(s *suite) {
	w := s.notify()
	defer w.end(s)
	want := map[string]map[string]string{}
	for i := range 20 {
		name := fmt.Sprintf("many-%02d", i)
		want[name] = map[string]string{name: canary}
	}
	w.await(s, want, func() {
		for name := range want {
			s.put(name, canary)
		}
	})
}

// notifyEnds checks that Notify returns nil when its context ends and an error when the provider is closed.
func notifyEnds(s *suite) {
	s.notify().end(s)
	w := s.notify()
	defer w.cancel()
	if err := s.Provider.Close(); err != nil {
		s.Errorf("Close: %v", err)
	}
	if err := w.wait(s); err == nil {
		s.Error("Notify returned nil when the provider was closed, want an error")
	}
	if err := s.notify().wait(s); err == nil {
		s.Error("Notify of a closed provider returned nil, want an error")
	}
}

// watcher is a running Notify and what is expected of it.
type watcher struct {
	cancel context.CancelFunc
	done   chan error // what Notify returned

	mu       sync.Mutex
	calling  int          // calls of changed under way
	expected *expectation // nil: nothing yet
}

// expectation is a set of changes that must be reported. It is guarded by the watcher's mutex.
type expectation struct {
	open  map[string]map[string]string // secret not yet reported → fields that Fetch must return; nil: not found
	early map[string]bool              // secrets that were reported when Fetch did not return that
	met   chan struct{}                // closed when nothing is open any more
}

// notify starts Notify and returns when it has been entered.
func (s *suite) notify() *watcher {
	s.Helper()
	n, ok := s.Provider.(providers.Notifier)
	if !ok {
		s.Skip("the store does not tell what changes")
	}
	parent, cancel := context.WithCancel(s.T.Context())
	ctx := &enteredContext{Context: parent, entered: make(chan struct{})}
	w := &watcher{cancel: cancel, done: make(chan error, 1)}
	go func() { w.done <- n.Notify(ctx, func(name string) { w.changed(s, name) }) }()
	select {
	case <-ctx.entered:
	case err := <-w.done: // it may refuse without a look at the context
		w.done <- err
	case <-time.After(s.Patience):
		s.Fatal("Notify does not look at its context")
	}
	return w
}

// changed is what Notify calls. It takes a moment, or calls that are concurrent would seldom meet.
func (w *watcher) changed(s *suite, name string) {
	w.mu.Lock()
	if w.calling++; w.calling > 1 {
		s.Error("changed is called concurrently")
	}
	e := w.expected
	open := map[string]map[string]string{}
	if e != nil {
		maps.Copy(open, e.open)
	}
	w.mu.Unlock()

	<-time.After(time.Millisecond)
	shown := map[string]bool{}
	for secret, fields := range open {
		if name == "" || name == secret {
			shown[secret] = s.shows(secret, fields)
		}
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	w.calling--
	for secret, ok := range shown {
		e.settle(secret, ok)
	}
}

// settle notes that a secret was reported, and whether Fetch showed the change by then.
func (e *expectation) settle(secret string, shown bool) {
	if !shown {
		e.early[secret] = true
		return
	}
	if _, open := e.open[secret]; !open {
		return
	}
	if delete(e.open, secret); len(e.open) == 0 {
		close(e.met)
	}
}

// shows tells whether Fetch returns fields, or NotFound for nil.
func (s *suite) shows(name string, fields map[string]string) bool {
	p, err := s.fetch(providers.Query{Name: name})
	if fields == nil || err != nil {
		return fields == nil && providers.KindOf(err) == providers.NotFound
	}
	return maps.Equal(reveal(p.Fields), fields)
}

func (w *watcher) expect(s *suite, change func(), name string, fields map[string]string) {
	s.Helper()
	w.await(s, map[string]map[string]string{name: fields}, change)
}

// await makes changes and ends the test unless all of want are reported.
func (w *watcher) await(s *suite, want map[string]map[string]string, change func()) {
	s.Helper()
	e := &expectation{open: maps.Clone(want), early: map[string]bool{}, met: make(chan struct{})}
	w.mu.Lock()
	w.expected = e
	w.mu.Unlock()
	change()
	select {
	case <-e.met:
	case err := <-w.done:
		w.done <- err
		s.Fatalf("Notify returned early: %v", err)
	case <-time.After(s.Patience):
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(e.open)) {
			if e.early[name] {
				s.Errorf("secret %q was reported as changed before Fetch showed the change", name)
			} else {
				s.Errorf("secret %q was not reported as changed", name)
			}
		}
		s.FailNow()
	}
}

// end ends the context of Notify and fails unless it returns nil.
func (w *watcher) end(s *suite) {
	s.Helper()
	w.cancel()
	if err := w.wait(s); err != nil {
		s.Errorf("Notify returned %v when its context ended, want nil", err)
	}
}

// wait waits until Notify returns.
func (w *watcher) wait(s *suite) error {
	s.Helper()
	select {
	case err := <-w.done:
		s.checkError(err)
		return err
	case <-time.After(s.Patience):
		s.Fatal("Notify does not return")
		return nil
	}
}

// enteredContext tells when somebody first looks at it: from then on Notify counts as entered.
type enteredContext struct {
	context.Context
	once    sync.Once
	entered chan struct{}
}

func (c *enteredContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.entered) })
	return c.Context.Done()
}

func (c *enteredContext) Err() error {
	c.once.Do(func() { close(c.entered) })
	return c.Context.Err()
}
