package csi_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keywell/keywell/pkg/csi"
)

func TestListen(t *testing.T) {
	path := socketPath(t)
	l, err := csi.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		path:               fs.ModeSocket | 0o600,
		filepath.Dir(path): fs.ModeDir | 0o700,
	} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, error %v; want mode %v", name, info, err, want)
		}
	}
	if _, err := csi.Listen(path); !errors.Is(err, csi.ErrInUse) {
		t.Errorf("a second agent: %v", err)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first agent lost its socket: %v", err)
	} else {
		_ = conn.Close()
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	l, err = csi.Listen("unix://" + path)
	if err != nil {
		t.Fatalf("after the first agent has gone: %v", err)
	}
	_ = l.Close()
}

// leaveSocket makes a listening socket that no Keywell agent has the lock of. If dead, it stops listening and leaves
// the file, as a process that was killed does.
func leaveSocket(t *testing.T, path string, dead bool) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if dead {
		_ = l.Close()
		return
	}
	t.Cleanup(func() { _ = l.Close() })
}

func TestListenReplacesADeadSocket(t *testing.T) {
	path := socketPath(t)
	leaveSocket(t, path, true)
	l, err := csi.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestListenRefuses(t *testing.T) {
	t.Run("a socket that is served", func(t *testing.T) {
		path := socketPath(t)
		leaveSocket(t, path, false)
		if _, err := csi.Listen(path); !errors.Is(err, csi.ErrInUse) {
			t.Errorf("%v, want ErrInUse", err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("the other's socket was removed: %v", err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := csi.Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("%v", err)
		}
		if content, err := os.ReadFile(path); err != nil || string(content) != "x" {
			t.Errorf("the file was touched: %q, %v", content, err)
		}
	})
	for _, endpoint := range []string{"", "csi.sock", "unix://csi.sock", "tcp://127.0.0.1:1"} {
		t.Run("endpoint "+endpoint, func(t *testing.T) {
			if _, err := csi.Listen(endpoint); err == nil || !strings.Contains(err.Error(), "absolute path") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestListenRace has many agents start at once on a dead socket: one of them gets it and keeps it.
func TestListenRace(t *testing.T) {
	path := socketPath(t)
	leaveSocket(t, path, true)
	var (
		agents sync.WaitGroup
		mu     sync.Mutex
		got    []*csi.Listener
	)
	for range 16 {
		agents.Go(func() {
			l, err := csi.Listen(path)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				got = append(got, l)
			case !errors.Is(err, csi.ErrInUse):
				t.Errorf("%v, want ErrInUse", err)
			}
		})
	}
	agents.Wait()
	if len(got) != 1 {
		t.Fatalf("%d agents listen", len(got))
	}
	defer got[0].Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}
