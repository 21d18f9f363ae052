package cluster

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// janitorPatience bounds the wait for the last processes to leave the control groups.
const janitorPatience = 20 * time.Second

// janitor waits until the node is gone and then removes what is left of the cluster. The lock that it was given goes with it.
func (s *spec) janitor() error {
	_, _ = io.Copy(io.Discard, os.NewFile(janitorWatches, "node"))
	return s.clear()
}

// clear removes the cluster's control groups and its directory. Both may be gone already.
func (s *spec) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), janitorPatience)
	defer cancel()
	var failed error
	for _, c := range s.Cgroups {
		failed = errors.Join(failed, c.remove(ctx))
	}
	if failed != nil {
		return failed // the directory says where they are
	}
	return os.RemoveAll(s.Dir)
}
