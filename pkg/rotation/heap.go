package rotation

import (
	"container/heap"
	"context"
	"time"
)

// entry is one volume. Its fields are guarded by Scheduler.mu.
type entry struct {
	id       string
	due      time.Time // meaningful while queued
	index    int       // in the queue; unqueued when not in it
	since    time.Time // when the rotation that is due, running or retried first came due; zero: none is
	failures int       // in a row

	cancel  context.CancelFunc // non-nil while a worker has the volume
	removed bool               // by Remove, while a worker had it
	again   time.Time          // when to rotate once the worker is done, whatever the outcome; zero: the outcome decides
}

const unqueued = -1

// queue is a heap of entries, the earliest due first.
type queue []*entry

var _ heap.Interface = (*queue)(nil)

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push adds x, an *entry, for package heap.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
	*q = append(*q, e)
}

// Pop removes the last entry, for package heap.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.index = unqueued
	return e
}

// set puts e into the queue with a due time, or moves it there.
func (q *queue) set(e *entry, due time.Time) {
	e.due = due
	if e.index == unqueued {
		heap.Push(q, e)
		return
	}
	heap.Fix(q, e.index)
}

// drop takes e out of the queue if it is in it.
func (q *queue) drop(e *entry) {
	if e.index != unqueued {
		heap.Remove(q, e.index)
	}
}
