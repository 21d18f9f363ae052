package agent_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// deployment is as many pods as it is scaled to, of one service account and with one secret.
type deployment struct{ pod }

func (d deployment) manifest() string {
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %s, namespace: %s}
spec:
  replicas: 0
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec: %s
`, d.name, d.namespace, d.spec())
}

// scale returns how long it took until that many pods were ready, and no more were there.
func (d deployment) scale(t *testing.T, replicas int) time.Duration {
	t.Helper()
	path := "/apis/apps/v1/namespaces/" + d.namespace + "/deployments/" + d.name
	began := time.Now()
	patch(t, path, fmt.Sprintf(`{"spec": {"replicas": %d}}`, replicas))
	type object struct{ Status struct{ ReadyReplicas int } }
	eventually(t, 5*time.Minute, func() error {
		if ready := get[object](t, path).Status.ReadyReplicas; ready != replicas {
			return fmt.Errorf("%d of %d pods are ready", ready, replicas)
		}
		// Pods that end count no more, but their volumes do.
		if volumes := sum(agentMetrics(t), "keywell_volume_published"); volumes != float64(replicas) {
			return fmt.Errorf("%.0f volumes are there for %d pods", volumes, replicas)
		}
		return nil
	})
	return time.Since(began)
}

// TestManyPods starts 100 pods together, counts how often their one secret is read, and what the agent needs meanwhile.
func TestManyPods(t *testing.T) {
	const refresh = 5 * time.Second
	install(t, defaults())
	ns := newNamespace(t, "many")
	apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"password": "p"}))
	d := deployment{pod{namespace: ns, name: "many", serviceAccount: "app",
		attributes: map[string]string{"store": "kubernetes", "secrets": "db", "refreshInterval": refresh.String()}}}
	apply(t, d.manifest())
	d.scale(t, 0) // what other tests have left is gone then

	needs(t, 0, refresh)
	measured(t, "100 pods starting together: until all are ready", "%s", seconds(d.scale(t, 100)))
	needs(t, 100, refresh)
	measured(t, "50 of 100 pods ending together: until their volumes are gone", "%s", seconds(d.scale(t, 50)))
	needs(t, 50, refresh)
	d.scale(t, 0)
}

// needs measures an agent with that many volumes, and fails the test if it reads their secret more often than the
// interval says.
func needs(t *testing.T, pods int, refresh time.Duration) {
	t.Helper()
	const intervals = 3
	cpu, reads, calls := sum(agentMetrics(t), "process_cpu_seconds_total"), secretReads(t), storeCalls(t)
	began := time.Now()
	<-time.After(intervals * refresh)
	reads, calls = secretReads(t)-reads, storeCalls(t)-calls
	m := agentMetrics(t)
	cpu = sum(m, "process_cpu_seconds_total") - cpu
	took := time.Since(began)

	measured(t, fmt.Sprintf("%d pods: agent's CPU, of one core", pods), "%.1f %%", 100*cpu/took.Seconds())
	measured(t, fmt.Sprintf("%d pods: agent's memory (resident; control group)", pods), "%.0f MiB; %.0f MiB",
		sum(m, "process_resident_memory_bytes")/(1<<20), agentMemory(t)/(1<<20))
	measured(t, fmt.Sprintf("%d pods, %d refresh intervals: reads of Secrets at the API server", pods, intervals), "%.0f", reads)
	if calls > intervals+2 {
		t.Errorf("%d pods of one service account: %.0f store calls in %d intervals", pods, calls, intervals)
	}
	if reads > intervals+2 {
		t.Errorf("%d pods of one service account: the API server was asked %.0f times in %d intervals", pods, reads, intervals)
	}
	if pods > 0 && reads < intervals-1 {
		t.Errorf("%d pods: the API server was asked %.0f times in %d intervals", pods, reads, intervals)
	}
}

func storeCalls(t *testing.T) float64 {
	t.Helper()
	return sum(agentMetrics(t), "keywell_resolve_store_calls_total", `store="kubernetes"`)
}

// agentMemory is what the agent's control group is charged for, its volumes included.
func agentMemory(t *testing.T) float64 {
	t.Helper()
	out := onNode(t, `cat /sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' /proc/$(pidof agent)/cgroup)/memory.usage_in_bytes`)
	n, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
