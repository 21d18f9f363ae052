package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/script")

// TestMain lets the scripts run this program, and a small HTTP client, as commands.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"agent": main, "get": get})
}

// TestScripts runs testdata/script/*.txtar. Besides testscript's commands they have
//
//	until COMMAND…         repeat a command until it succeeds, at most 20 s
//	get SOCKET PATH [H: V] print status and body of a GET over a Unix socket
//
// Scripts whose condition is [root] mount real tmpfs. $CANARY is the text of every secret whose leak a script looks for.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(e *testscript.Env) error {
			// Paths of Unix sockets are at most 107 bytes long, which a test's working directory may exceed.
			run, err := os.MkdirTemp("", "kw")
			if err != nil {
				return err
			}
			e.Setenv("RUN", run)
			e.Setenv("CANARY", "c4n4ry")
			e.Defer(func() { cleanUp(run) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"until": until},
	})
}

// cleanUp removes a script's directory, with the volumes that a failed script left mounted in it.
func cleanUp(run string) {
	left, _ := filepath.Glob(filepath.Join(run, "v", "*"))
	for _, target := range left {
		_ = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	_ = os.RemoveAll(run)
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: until COMMAND [ARG…]")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("gave up after 20 s: %v", err)
		}
		<-tick.C
	}
}

// get is the command of that name. It exits with 1 unless the answer is a 2xx.
func get() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: get SOCKET PATH [HEADER: VALUE]")
		os.Exit(2)
	}
	client := &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", os.Args[1])
		}},
	}
	req, err := http.NewRequest(http.MethodGet, "http://localhost"+os.Args[2], nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	for _, h := range os.Args[3:] {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if resp.StatusCode/100 != 2 {
		os.Exit(1)
	}
}
