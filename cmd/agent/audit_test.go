package main

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// file is an io.Writer that may be full.
type file struct {
	mu     sync.Mutex
	text   strings.Builder
	writes int
	err    error
}

func (f *file) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.err != nil {
		return 0, f.err
	}
	return f.text.Write(p)
}

func TestAuditWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f file
		w := newAuditWriter(&f)
		write := func(record string) error {
			n, err := w.Write([]byte(record))
			if n != len(record) {
				t.Errorf("wrote %d bytes of %q", n, record)
			}
			return err
		}
		want := func(what, text string, writes int) {
			t.Helper()
			if got := f.text.String(); got != text || f.writes != writes {
				t.Errorf("%s: %.40q in %d writes, want %.40q in %d", what, got, f.writes, text, writes)
			}
		}
		for range 3 {
			time.Sleep(time.Hour) // of the bubble, as all times here
			synctest.Wait()
			_ = write("a")
			_ = write("b")
		}
		synctest.Wait()
		want("before their time", "abab", 2)
		time.Sleep(auditDelay)
		synctest.Wait()
		want("after it", "ababab", 3)

		large := strings.Repeat("x", auditBuffer)
		_ = write(large)
		want("a full buffer", "ababab"+large, 4)

		f.err = errors.New("no space left")
		_ = write("lost")
		time.Sleep(time.Second)
		synctest.Wait()
		f.err = nil
		if err := write("c"); err == nil || err.Error() != "no space left" {
			t.Errorf("after a loss: %v", err)
		}
		if err := write("d"); err != nil {
			t.Errorf("an error was told twice: %v", err)
		}
		w.Flush()
		want("flushed", "ababab"+large+"cd", 6)
		w.Flush()
		time.Sleep(time.Second)
		synctest.Wait()
		want("flushed with nothing waiting", "ababab"+large+"cd", 6)
	})
}

// Records of many goroutines come out whole, each once, in the order of each goroutine.
func TestAuditWriterConcurrently(t *testing.T) {
	var f file
	w := newAuditWriter(&f)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 2000 {
				_, _ = w.Write([]byte(strings.Repeat("y", 99) + "\n"))
			}
		})
	}
	writers.Wait()
	w.Flush()
	lines := strings.Split(f.text.String(), "\n")
	if len(lines) != 16001 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines[:16000] {
		if len(line) != 99 {
			t.Fatalf("a record of %d bytes", len(line))
		}
	}
}
