package main

import (
	"io"
	"sync"
	"time"
)

// How long an audit record may wait to be written together with others, and how many bytes may wait.
const (
	auditDelay  = time.Millisecond
	auditBuffer = 64 << 10
)

// auditWriter writes audit records in batches, because one system call for each would be the most expensive part of a
// read from the cache. An agent that is killed loses those of the last auditDelay. It is safe for concurrent use.
type auditWriter struct {
	out   io.Writer
	timer *time.Timer

	writing sync.Mutex // held while out is written to; taken before mu
	spare   []byte     // empty, for the next batch

	mu      sync.Mutex
	waiting []byte
	err     error // of the last batch, for whoever writes next
}

func newAuditWriter(out io.Writer) *auditWriter {
	w := &auditWriter{out: out}
	w.timer = time.AfterFunc(auditDelay, w.Flush)
	return w
}

// Write keeps a record to be written soon. An error means that earlier records were lost, and this one is kept.
func (w *auditWriter) Write(record []byte) (int, error) {
	w.mu.Lock()
	if len(w.waiting) == 0 {
		w.timer.Reset(auditDelay)
	}
	w.waiting = append(w.waiting, record...)
	full, err := len(w.waiting) >= auditBuffer, w.err
	w.err = nil
	w.mu.Unlock()
	if full {
		w.Flush()
	}
	return len(record), err
}

// Flush writes what waits.
func (w *auditWriter) Flush() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	if len(w.waiting) == 0 {
		w.mu.Unlock()
		return
	}
	batch := w.waiting
	w.waiting = w.spare
	w.mu.Unlock()
	_, err := w.out.Write(batch)
	w.spare = batch[:0]
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
}
