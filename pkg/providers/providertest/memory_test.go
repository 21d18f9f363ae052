package providertest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

func TestMemoryCounts(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"user": "u"})
	p, err := m.Driver("secretstores.test").Open(t.Context(), providers.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"db", "db", "missing"} {
		_, _ = p.Fetch(t.Context(), providers.Query{Name: name})
	}
	_, _ = p.(providers.Lister).List(t.Context(), providers.Query{})
	if m.Fetches("db") != 2 || m.Fetches("") != 3 || len(m.Queries()) != 3 || m.Lists() != 1 {
		t.Errorf("counted %d, %d, %d fetches and %d lists", m.Fetches("db"), m.Fetches(""), len(m.Queries()), m.Lists())
	}
	if m.Open() != 1 {
		t.Errorf("Open() = %d with one provider open", m.Open())
	}
	p.Close()
	p.Close()
	if m.Open() != 0 {
		t.Errorf("Open() = %d after Close", m.Open())
	}
}

func TestMemoryFails(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", nil)
	p := m.Provider()
	down := providers.Errorf(providers.Unavailable, "down")
	m.Fail(down)
	if _, err := p.Fetch(t.Context(), providers.Query{Name: "db"}); !errors.Is(err, down) {
		t.Errorf("Fetch: %v", err)
	}
	if _, err := p.List(t.Context(), providers.Query{}); !errors.Is(err, down) {
		t.Errorf("List: %v", err)
	}
	m.Fail(nil)
	if _, err := p.Fetch(t.Context(), providers.Query{Name: "db"}); err != nil {
		t.Errorf("Fetch after Fail(nil): %v", err)
	}
}

func TestMemoryHangsAndBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := providertest.NewMemory()
		m.Put("db", nil)
		p := m.Provider()
		release := m.Hang()
		fetched := make(chan error, 1)
		go func() {
			_, err := p.Fetch(t.Context(), providers.Query{Name: "db"})
			fetched <- err
		}()
		notified := make(chan error, 1)
		go func() { notified <- p.Notify(t.Context(), func(string) {}) }()
		synctest.Wait()
		if len(fetched) != 0 || m.Fetches("db") != 1 || m.Notifying() != 1 {
			t.Errorf("hanging: %d returned, %d called, %d notifying", len(fetched), m.Fetches("db"), m.Notifying())
		}
		release()
		if err := <-fetched; err != nil {
			t.Errorf("Fetch after release: %v", err)
		}
		broken := errors.New("stream broke")
		m.BreakNotify(broken)
		if err := <-notified; !errors.Is(err, broken) {
			t.Errorf("Notify = %v, want the break", err)
		}
		if _, err := p.Fetch(context.Background(), providers.Query{Name: "db"}); err != nil {
			t.Errorf("Fetch: %v", err)
		}
	})
}
