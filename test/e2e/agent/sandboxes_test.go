package agent_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// headStart is how late the listeners of sandboxes were, in milliseconds.
type headStart struct {
	delay []float64 // from the runtime's announcement
	find  []float64 // in which the runtime says where the namespace is
	own   []float64 // the rest: the agent's
}

// watchStart runs start, which starts a number of pods, and notes how late their listeners were on average.
func (h *headStart) watchStart(t *testing.T, start func()) {
	t.Helper()
	const name = "keywell_localhost_%s_seconds_%s"
	before := agentMetrics(t)
	start()
	after := agentMetrics(t)
	grown := func(what, of string) float64 {
		series := fmt.Sprintf(name, what, of)
		return sum(after, series) - sum(before, series)
	}
	n := grown("delay", "count")
	if n == 0 {
		t.Fatal("no sandbox was announced")
	}
	delay, find := 1000*grown("delay", "sum")/n, 1000*grown("find", "sum")/n
	h.delay, h.find, h.own = append(h.delay, delay), append(h.find, find), append(h.own, delay-find)
}

// median of an odd number of values, or close to it.
func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }

// TestSandboxes follows listeners through what happens to the namespaces of pods: each is held while it is needed, and
// no longer.
func TestSandboxes(t *testing.T) {
	const pods = 21
	installLocalhost(t, "sandboxes")
	ns := newNamespace(t, "sandboxes")
	apply(t, reader(ns, "app"))
	nothingPinned(t)
	var all []caller
	var alone, together headStart
	late := 0
	for i := range pods { // one after the other: how long it takes when the node does nothing else
		c := caller{namespace: ns, name: fmt.Sprintf("app-%d", i), annotations: asksLocalhost, init: true}
		all = append(all, c)
		alone.watchStart(t, func() {
			c.start(t)
			c.answers(t)
		})
		said := kubectl(t, "logs", c.name, "--namespace", ns, "-c", "first")
		if !strings.HasPrefix(said, "refused 0 times") {
			late++
			t.Logf("%s: the init container was %s", c.name, said)
		}
	}
	measured(t, fmt.Sprintf("init containers of %d pods that localhost refused at first", pods), "%d", late)
	measured(t, "sandbox announced to API on localhost, one after the other: median", "%.1f ms; %.1f the runtime's answer, %.1f the agent",
		median(alone.delay), median(alone.find), median(alone.own))
	measured(t, "sandbox announced to API on localhost: fastest and slowest", "%.1f and %.1f ms", slices.Min(alone.delay), slices.Max(alone.delay))
	if own := median(alone.own); own > 5 {
		t.Errorf("the agent itself took %.1f ms, with the runtime's answer aside", own)
	}

	t.Run("another sandbox", func(t *testing.T) {
		c := all[0]
		uid := get[podObject](t, c.pod().path()).Metadata.UID
		began := time.Now()
		// The sandbox dies with the process that holds it open.
		onNode(t, fmt.Sprintf(`for p in $(pidof pause); do if grep -q %s /proc/$p/cgroup; then kill -9 $p; fi; done`, uid))
		eventually(t, patience, func() error {
			p := get[podObject](t, c.pod().path())
			for _, s := range p.Status.ContainerStatuses {
				if s.RestartCount == 0 {
					return errors.New("the containers still run in the old sandbox")
				}
			}
			return nil
		})
		c.answers(t)
		measured(t, "death of a sandbox to answers on localhost in the next", "%s", seconds(time.Since(began)))
	})
	t.Run("the runtime is killed", func(t *testing.T) {
		onNode(t, "kill -9 $(pidof containerd)")
		c := caller{namespace: ns, name: "later", annotations: asksLocalhost}
		eventually(t, patience, func() error { return node.Apply(t.Context(), c.manifest()) })
		c.pod().waitReady(t)
		c.answers(t)
		all[1].wants(t, theSecret, "get", localhost+secretPath)
		c.pod().delete(t)
	})
	endAll(t, all)
	nothingPinned(t)

	all = nil
	together.watchStart(t, func() {
		manifest := ""
		for i := range pods {
			c := caller{namespace: ns, name: fmt.Sprintf("crowd-%d", i), annotations: asksLocalhost}
			all = append(all, c)
			manifest += c.manifest()
		}
		apply(t, manifest)
		for _, c := range all {
			c.pod().waitReady(t)
			c.answers(t)
		}
	})
	measured(t, fmt.Sprintf("the same, %d pods at one time: mean", pods), "%.1f ms; %.1f the runtime's answer, %.1f the agent",
		together.delay[0], together.find[0], together.own[0])
	endAll(t, all)
	nothingPinned(t)
}

// endAll ends pods and waits until they are gone.
func endAll(t *testing.T, all []caller) {
	t.Helper()
	for _, c := range all {
		c.pod().deleteLater(t)
	}
	for _, c := range all {
		c.pod().waitGone(t)
	}
}

// nothingPinned waits until the agent has no socket that is in the network of a pod.
func nothingPinned(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		// The kernel lists the sockets of a process' own network namespace; those that it does not list are in others.
		foreign := strings.Fields(onNode(t, `pid=$(pidof agent)
			for i in $(ls -l /proc/$pid/fd | sed -n 's/.*socket:\[\([0-9]*\)\].*/\1/p'); do
				cat /proc/$pid/net/tcp /proc/$pid/net/tcp6 /proc/$pid/net/unix /proc/$pid/net/netlink | grep -qw $i || echo $i
			done`))
		if pods := sum(agentMetrics(t), "keywell_localhost_pods"); pods != 0 || len(foreign) > 0 {
			return fmt.Errorf("%s pods have listeners, and these sockets are in other networks: %v", strconv.FormatFloat(pods, 'f', 0, 64), foreign)
		}
		return nil
	})
}
