package providertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

func errorKinds(s *suite) {
	if len(s.Faults) == 0 {
		s.Skip("the harness can't make the store fail")
	}
	for kind, fail := range s.Faults {
		name := "fault-" + string('a'+rune(kind))
		s.put(name, canary)
		s.wantValue(providers.Query{Name: name}, canary)
		fail(name)
		_, err := s.fetch(providers.Query{Name: name})
		if err == nil {
			s.Errorf("Fetch of a secret that fails with %v succeeded", kind)
			continue
		}
		s.isKind(err, kind)
		if after := providers.RetryAfter(err); kind == providers.Throttled && after != s.RetryAfter {
			s.Errorf("RetryAfter = %v, want %v", after, s.RetryAfter)
		}
	}
}

// calls returns every call that a context can end, by name.
func (s *suite) calls() map[string]func(context.Context) error {
	calls := map[string]func(context.Context) error{
		"Fetch": func(ctx context.Context) error {
			_, err := s.Provider.Fetch(ctx, providers.Query{Name: "db"})
			return err
		},
	}
	if l, ok := s.Provider.(providers.Lister); ok {
		calls["List"] = func(ctx context.Context) error {
			_, err := l.List(ctx, providers.Query{})
			return err
		}
	}
	return calls
}

func contextEnded(s *suite) {
	s.put("db", canary)
	cancelled, cancel := context.WithCancel(s.Context())
	cancel()
	expired, cancel := context.WithDeadline(s.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{cancelled, expired} {
		for name, call := range s.calls() {
			if err := call(ctx); !errors.Is(err, ctx.Err()) {
				s.Errorf("%s with an ended context: error %v, want %v", name, err, ctx.Err())
			}
		}
	}
}

func contextEndsMidway(s *suite) {
	if s.Hang == nil {
		s.Skip("the harness can't make the store hang")
	}
	s.put("db", canary)
	s.Hang()
	for name, call := range s.calls() {
		expiring, stop := context.WithTimeout(s.T.Context(), s.Patience/50)
		s.endsMidway(name, call, expiring)
		stop()
		cancelled, cancel := context.WithCancel(s.T.Context())
		time.AfterFunc(s.Patience/50, cancel)
		s.endsMidway(name, call, cancelled)
	}
}

// endsMidway fails unless call waits for ctx to end, and no longer.
func (s *suite) endsMidway(name string, call func(context.Context) error, ctx context.Context) {
	s.Helper()
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	select {
	case err := <-done:
		if !errors.Is(err, ctx.Err()) || err == nil {
			s.Errorf("%s of a hanging store: error %v, context %v", name, err, ctx.Err())
		}
	case <-time.After(s.Patience):
		s.Errorf("%s of a hanging store did not return when its context ended", name)
	}
}

func closeProvider(s *suite) {
	s.put("db", canary)
	s.wantValue(providers.Query{Name: "db"}, canary)
	for range 2 {
		if err := s.Provider.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	}
	s.wantKind(providers.Query{Name: "db"}, providers.Unavailable)
	s.wantKind(providers.Query{Name: "missing"}, providers.Unavailable)
	if s.Lists {
		if _, err := s.list(providers.Query{}); err == nil {
			s.Error("List works after Close")
		} else {
			s.isKind(err, providers.Unavailable)
		}
	}
}

// concurrent uses the provider from many goroutines while the store changes, and closes it under them. The race
// detector is half of this test.
func concurrent(s *suite) {
	const rounds = 20
	s.put("db", canary+"-0")
	s.put("other", canary)
	s.wantValue(providers.Query{Name: "other"}, canary) // a store that is written in place may show this while it is
	ctx, cancel := s.context()
	defer cancel()
	var all, halfway sync.WaitGroup
	for range 8 {
		halfway.Add(1)
		all.Go(func() {
			for i := range rounds {
				if i == rounds/2 {
					halfway.Done()
				}
				for name, err := range s.use(ctx) {
					if err != nil && (i < rounds/2 || providers.KindOf(err) != providers.Unavailable) {
						s.Errorf("%s: %v", name, err)
					}
				}
			}
		})
	}
	s.put("db", canary+"-1")
	halfway.Wait()
	if err := s.Provider.Close(); err != nil {
		s.Errorf("Close: %v", err)
	}
	all.Wait()
}

// use calls every method once and returns what failed, by name.
func (s *suite) use(ctx context.Context) map[string]error {
	failed := map[string]error{}
	p, err := s.Provider.Fetch(ctx, providers.Query{Name: "other"})
	if failed["Fetch"] = err; err == nil && !p.Fields["other"].Equal(secret.FromString(canary)) {
		failed["Fetch"] = errors.New("the value is another one")
	}
	if l, ok := s.Provider.(providers.Lister); ok {
		names, err := l.List(ctx, providers.Query{})
		if failed["List"] = err; err == nil && len(names) != 2 {
			failed["List"] = fmt.Errorf("%d names, want 2", len(names))
		}
	}
	return failed
}
