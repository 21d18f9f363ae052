package localhost_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/cri"
	"github.com/keywell/keywell/pkg/localhost"
	"github.com/keywell/keywell/pkg/netns/netnstest"
)

// TestPods follows two pods through their lives.
func TestPods(t *testing.T) {
	n := newNode(t)
	a, b := netnstest.New(t), netnstest.New(t)
	n.run()
	n.wantNone(a)
	n.start("a", a)
	n.start("b", b)
	n.wantAPI("a", a)
	n.wantAPI("b", b)

	open, _, err := call(t, a, "127.0.0.1:3500")
	if err != nil {
		t.Fatal(err)
	}
	n.stop("a")
	if _, err := io.ReadAll(open); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the connection of a pod that has ended goes on: %v", err)
	}
	n.eventually(func() error {
		if _, _, err := call(t, a, "[::1]:50001"); err == nil {
			return errors.New("the listener goes on")
		}
		return nil
	})
	n.wantNone(a)
	n.wantAPI("b", b)

	// The pod's next sandbox has another namespace.
	again := netnstest.New(t)
	n.change(func() {
		n.sandboxes["a-2"] = cri.Sandbox{ID: "a-2", Namespace: "shop", Pod: "a", PodUID: "a"}
		n.paths["a-2"] = again.Path()
	})
	n.wantAPI("a", again)
	n.wantNone(a)

	if err := testutil.GatherAndCompare(n.registry, strings.NewReader(`
		# HELP keywell_localhost_attempts_total Attempts to give a pod the API on localhost, by result: ok, host_network, port_taken, refused (the pod's own wishes forbid it), gone, failed.
		# TYPE keywell_localhost_attempts_total counter
		keywell_localhost_attempts_total{result="ok"} 3
		# HELP keywell_localhost_pods Pods that have the API on localhost.
		# TYPE keywell_localhost_pods gauge
		keywell_localhost_pods 2
	`), "keywell_localhost_attempts_total", "keywell_localhost_pods"); err != nil {
		t.Error(err)
	}
}

// TestNamespaceIsNotPinned asserts that nothing of this process holds the namespace of a pod that has ended, though a
// call of the pod was under way.
func TestNamespaceIsNotPinned(t *testing.T) {
	n := newNode(t)
	ns := netnstest.New(t)
	n.run()
	n.start("a", ns)
	n.wantAPI("a", ns)
	conn, _, err := call(t, ns, "[::1]:3500")
	if err != nil {
		t.Fatal(err)
	}
	if len(ns.Holders(t)) == 0 {
		t.Fatal("the listeners are not seen")
	}
	n.stop("a")
	_, _ = io.ReadAll(conn)
	_ = conn.Close()
	n.eventually(func() error {
		// The calls of wantAPI are the pod's own ends.
		if held := ns.Holders(t); len(held) > len(addresses)+1 {
			return fmt.Errorf("held by %v", held)
		}
		return nil
	})
}

// TestRestart has one agent end and another begin, for a pod that goes on.
func TestRestart(t *testing.T) {
	ns := netnstest.New(t)
	first := newNode(t)
	end := first.run()
	first.start("a", ns)
	first.wantAPI("a", ns)
	end()
	first.wantNone(ns)
	second := newNode(t)
	second.start("a", ns)
	second.run()
	second.wantAPI("a", ns)
}

// TestRefused has pods that can't have listeners. Each is told once, however often something changes.
func TestRefused(t *testing.T) {
	sidecar, host := netnstest.New(t), netnstest.New(t)
	taken := make(map[string]*netnstest.Namespace)
	for _, address := range []string{"127.0.0.1:3500", "[::1]:3500", "0.0.0.0:50001", "[::]:50001"} {
		ns := netnstest.New(t)
		l, err := ns.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go hangUp(l)
		taken[address] = ns
	}
	n := newNode(t)
	n.run()
	for address, ns := range taken {
		n.start("taken", ns)
		n.wantRefusal("taken", "a process of the pod has port 3500 or 50001")
		n.settled()
		n.stop("taken")
		n.settled()
		for other := range addresses {
			if _, got, _ := call(t, ns, other); got != "" {
				t.Errorf("%s is taken, and %s answers %q", address, other, got)
			}
		}
	}

	n.change(func() { n.errs["host"] = cri.ErrHostNetwork })
	n.start("host", host)
	n.wantRefusal("host", "api: socket")
	own := cri.Sandbox{ID: "own", Namespace: "shop", Pod: "own", PodUID: "own"}
	n.change(func() { n.wishes["own"], n.sandboxes["own"], n.paths["own"] = asks, own, "/proc/self/ns/net" })
	n.wantRefusal("own", "hostNetwork")

	n.change(func() {
		n.wishes["sidecar"] = localhost.Asked.Wish(localhost.Pod{Volume: true, Sidecar: true})
		n.sandboxes["sidecar"] = cri.Sandbox{ID: "sidecar", Namespace: "shop", Pod: "sidecar", PodUID: "sidecar"}
		n.paths["sidecar"] = sidecar.Path()
	})
	n.wantRefusal("sidecar", "Dapr sidecar")
	n.wantNone(sidecar)
	n.settled()
	select {
	case r := <-n.refusals:
		t.Errorf("told again: %+v", r)
	default:
	}
	for _, id := range []string{"host", "own"} {
		if n.asked[id] != 1 {
			t.Errorf("%s was tried %d times", id, n.asked[id])
		}
	}
	n.change(func() { n.wishes["sidecar"] = asks }) // the annotation is removed
	n.wantAPI("sidecar", sidecar)
}

// TestDefaultIsQuiet has a pod that did not ask, and can't have what is given to all.
func TestDefaultIsQuiet(t *testing.T) {
	n := newNode(t)
	n.run()
	n.change(func() {
		n.wishes["host"] = localhost.All.Wish(localhost.Pod{})
		n.sandboxes["host"] = cri.Sandbox{ID: "host", Namespace: "shop", Pod: "host", PodUID: "host"}
		n.errs["host"] = cri.ErrHostNetwork
	})
	n.eventually(func() error {
		if !strings.Contains(n.log.String(), "level=DEBUG msg=\"pod does not get the API on localhost\"") {
			return errors.New("it is not in the log")
		}
		return nil
	})
	n.settled()
	if len(n.refusals) > 0 || strings.Contains(n.log.String(), "WARN") {
		t.Errorf("somebody is told\n%s", n.log)
	}
}

// TestRetries has a namespace that can't be had at first.
func TestRetries(t *testing.T) {
	for name, err := range map[string]error{"the runtime does not answer": errors.New("unavailable"), "not mounted here": nil} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			ns := netnstest.New(t)
			n.run()
			n.change(func() { n.errs["a"] = err })
			n.start("a", ns)
			if err == nil {
				n.change(func() { n.paths["a"] = "/run/netns/none" })
			} else {
				n.wantRefusal("a", "tries again")
			}
			n.eventually(func() error {
				n.mu.Lock()
				defer n.mu.Unlock()
				if n.asked["a"] == 0 {
					return errors.New("it is not tried")
				}
				return nil
			})
			n.change(func() { n.errs["a"], n.paths["a"] = nil, ns.Path() })
			n.wantAPI("a", ns)
		})
	}
}

// TestSilentRuntime has sandboxes of which the runtime says nothing. They keep no other pod waiting, neither for its
// listeners nor for their end, and one that goes and comes again is tried again.
func TestSilentRuntime(t *testing.T) {
	n := newNode(t)
	slow, other := netnstest.New(t), netnstest.New(t)
	n.run()
	n.change(func() { n.silent["slow"] = true })
	n.start("slow", slow)
	n.start("other", other)
	n.wantAPI("other", other)
	n.stop("other")
	n.eventually(func() error {
		if _, _, err := call(t, other, "[::1]:50001"); err == nil {
			return errors.New("the listener goes on")
		}
		return nil
	})
	n.wantNone(slow)
	n.stop("slow")
	n.settled()
	n.change(func() { n.silent["slow"] = false })
	n.start("slow", slow)
	n.wantAPI("slow", slow)
	if strings.Contains(n.log.String(), "level=ERROR") {
		t.Errorf("an attempt that was given up is an error:\n%s", n.log)
	}
}

func TestWithoutIPv6(t *testing.T) {
	n := newNode(t)
	ns := netnstest.New(t)
	if err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	n.run()
	n.start("a", ns)
	n.eventually(func() error {
		_, _, err := call(t, ns, "127.0.0.1:50001")
		return err
	})
	if _, got, err := call(t, ns, "127.0.0.1:3500"); err != nil || got != "http of shop/a" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestUnknownPod has a sandbox before its pod is known: what it may be must be known first.
func TestUnknownPod(t *testing.T) {
	n := newNode(t)
	ns := netnstest.New(t)
	n.run()
	n.start("a", ns)
	n.change(func() { delete(n.wishes, "a") })
	n.settled()
	n.change(func() { n.wishes["a"] = asks })
	n.wantAPI("a", ns)
	n.change(func() { n.wishes["a"] = localhost.Asked.Wish(localhost.Pod{Annotation: "none", Volume: true}) })
	n.settled()
	n.wantNone(ns)
}

func TestNew(t *testing.T) {
	if _, err := localhost.New(localhost.Options{}); err == nil {
		t.Error("a Set without a runtime")
	}
}
