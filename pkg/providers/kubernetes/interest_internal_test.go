package kubernetes

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/secret"
)

// TestInterestEnds is inside the package because what it tests takes an hour outside.
func TestInterestEnds(t *testing.T) {
	now := time.Now()
	shop := owner{namespace: "shop", callerNamespace: "shop", account: "alice"}
	all := target{owner: shop}
	i := newInterest()
	readAt := func(name string, at time.Time, lifetime time.Duration) {
		i.read(read{owner: shop, name: name, token: secret.FromString("t"), expires: at.Add(lifetime)}, "1", at)
	}
	check := func(what string, at time.Time, want ...target) {
		t.Helper()
		if diff := cmp.Diff(want, i.wanted(at), cmp.AllowUnexported(target{}, owner{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if _, ok := i.token(all, at); ok && len(want) == 0 {
			t.Errorf("%s: there is a token for what is not wanted", what)
		}
	}
	readAt("a", now, 3*time.Hour)
	check("read", now, all)
	check("before it is idle", now.Add(idle), all)
	check("idle", now.Add(idle+1))
	if len(i.owners) != 0 {
		t.Error("an owner without interest is remembered")
	}

	readAt("a", now, time.Minute)
	check("token is valid", now.Add(time.Minute-1), all)
	check("token has expired", now.Add(time.Minute))
	readAt("a", now, time.Second)
	check("an older token does not replace it", now.Add(time.Minute-1), all)

	readAt("b", now, time.Hour)
	i.refuse(all, now)
	i.refuse(target{shop, "b"}, now)
	check("only single secrets", now, target{shop, "a"})
	check("refusals end", now.Add(refusedFor), all)
}

func TestInterestIsBounded(t *testing.T) {
	i := newInterest()
	o := owner{namespace: "shop"}
	for n := range 2 * maxNames {
		i.read(read{owner: o, name: fmt.Sprint(n)}, "", time.Now())
	}
	if got := len(i.owners[o].names); got != maxNames {
		t.Errorf("%d names are remembered, want %d", got, maxNames)
	}
}
