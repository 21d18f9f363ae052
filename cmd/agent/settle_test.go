package main

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// residentProgram returns how much of mapped files is in memory, in KiB.
func residentProgram(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "RssFile:" {
			n, err := strconv.Atoi(string(fields[1]))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the kernel does not say what is resident")
	return 0
}

// TestReleaseProgram: pages of the program go, what was written to stays, and the program goes on.
func TestReleaseProgram(t *testing.T) {
	written := bytes.Repeat([]byte("written"), 1<<16)
	before := residentProgram(t)
	releaseProgram()
	if after := residentProgram(t); after > before*3/4 {
		t.Errorf("%d KiB of %d are left", after, before)
	}
	runtime.GC() // which reads the program's tables
	if !bytes.Equal(written, bytes.Repeat([]byte("written"), 1<<16)) || version == "" {
		t.Error("data is not what it was")
	}
}
