package main

import (
	"bufio"
	"context"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// gcPercent lets the heap grow to three times what is alive before it is collected, not twice: what is alive is a few MiB, most
// of which are the tables of SDKs, and to go through them is a tenth of the work of a request from the cache.
const gcPercent = 200

// settle gives back what starting took. Decoding manifests and secrets needs several times the memory that the agent has to
// keep, and the initialisation of every SDK that is linked touches two thirds of the program, of which an idle agent runs
// little; the kernel would leave both to it.
func (a *agent) settle(ctx context.Context) error {
	select {
	case <-a.stores.Ready():
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		debug.FreeOSMemory()
		releaseProgram()
	case <-ctx.Done():
	}
	return nil
}

// releaseProgram takes the pages of the program's own file out of the process. They stay in the kernel's cache, and come
// back as they are used. Nothing is taken that has been written to, and where something is not as expected, nothing.
func releaseProgram() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	var m mapping
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		switch fields := strings.Fields(lines.Text()); {
		case len(fields) == 6 && fields[5] == exe:
			m = mappingOf(fields)
		case len(fields) > 0 && fields[0] == "VmFlags:": // the last line of each
			m.release()
			m = mapping{}
		case len(fields) > 1 && fields[0] == "Anonymous:" && fields[1] != "0": // pages that are not the file's any more
			m = mapping{}
		}
	}
}

// mapping is a part of the program's file in memory that can only be read or executed. The zero mapping is none.
type mapping struct{ start, end uintptr }

// mappingOf reads the first line of a mapping in smaps: addresses, permissions, offset, device, inode and file.
func mappingOf(fields []string) mapping {
	from, to, _ := strings.Cut(fields[0], "-")
	start, err := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err != nil || err2 != nil || strings.Contains(fields[1], "w") {
		return mapping{}
	}
	return mapping{uintptr(start), uintptr(end)}
}

func (m mapping) release() {
	if m.end > m.start {
		// It fails for what can't be released, which is then as it was.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}
