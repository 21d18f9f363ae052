package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// executedAgain is set in the environment of the program that Process executes, so that it can't do so for ever.
const executedAgain = "KEYWELL_CONFINED"

// Process leaves the process with no capabilities but those of keep (numbers, as unix.CAP_CHOWN), of which it may have
// fewer. It can't get any back, by executing something else either, and nobody but root sees its memory. If the process
// has more at first, Process executes the program again, with the same arguments, and does not return; so it is called
// before the program has done anything. Linux only; it needs no rights. Not safe for concurrent use.
func Process(keep ...int) error {
	var allowed set
	for _, c := range keep {
		allowed |= 1 << c
	}
	have, err := current()
	if err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if have.within(allowed) {
		if err := os.Unsetenv(executedAgain); err != nil {
			return err
		}
		return forbidDumps()
	}
	if os.Getenv(executedAgain) != "" {
		return fmt.Errorf("capabilities %#x are left after giving up all but %#x", have.permitted, allowed)
	}
	runtime.LockOSThread() // to the end: the thread is the one that executes, or the process fails
	if err := have.giveUp(allowed); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	err = syscall.Exec(program, os.Args, append(os.Environ(), executedAgain+"=1"))
	return fmt.Errorf("execute %s with fewer capabilities: %w", program, err)
}

// set is a set of capabilities, by number.
type set uint64

func (s set) has(c int) bool { return s&(1<<c) != 0 }

// each calls f with every member until one fails.
func (s set) each(f func(c uintptr) error) error {
	for c := range 64 {
		if !s.has(c) {
			continue
		}
		if err := f(uintptr(c)); err != nil {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	return nil
}

// sets are the capabilities of a thread. See capabilities(7).
type sets struct {
	effective, permitted, inheritable set
	ambient                           set
	bounding                          set
	noNewPrivileges                   bool
}

// current returns the sets of the calling thread, which are those of every thread until one changes its own.
func current() (sets, error) {
	var (
		s      sets
		header = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data   [2]unix.CapUserData
	)
	if err := unix.Capget(&header, &data[0]); err != nil {
		return s, err
	}
	join := func(low, high uint32) set { return set(high)<<32 | set(low) }
	s.effective = join(data[0].Effective, data[1].Effective)
	s.permitted = join(data[0].Permitted, data[1].Permitted)
	s.inheritable = join(data[0].Inheritable, data[1].Inheritable)
	for c := range 64 {
		bounded, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel knows no more
		}
		if err != nil {
			return s, err
		}
		s.bounding |= set(bounded) << c
		raised, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, uintptr(c), 0, 0)
		if err != nil {
			return s, err
		}
		s.ambient |= set(raised) << c
	}
	flag, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	s.noNewPrivileges = flag == 1
	return s, err
}

// canBound tells whether the thread may take capabilities out of its bounding set. One that may not is confined by
// no_new_privs all the same.
func (s sets) canBound() bool { return s.effective.has(unix.CAP_SETPCAP) }

func (s sets) within(allowed set) bool {
	all := s.effective | s.permitted | s.inheritable | s.ambient
	if s.canBound() {
		all |= s.bounding
	}
	return all&^allowed == 0 && s.noNewPrivileges
}

// giveUp takes all capabilities but the allowed from the calling thread, which has s.
func (s sets) giveUp(allowed set) error {
	if s.canBound() {
		err := (s.bounding &^ allowed).each(func(c uintptr) error { return unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) })
		if err != nil {
			return err
		}
	}
	lower := func(c uintptr) error { return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_LOWER, c, 0, 0) }
	if err := (s.ambient &^ allowed).each(lower); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		word := func(of set) uint32 { return uint32(of & allowed >> (32 * i)) }
		data[i] = unix.CapUserData{Effective: word(s.effective), Permitted: word(s.permitted), Inheritable: word(s.inheritable)}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// forbidDumps keeps the process's memory, which holds secrets, out of core dumps and away from debuggers of others.
func forbidDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make process not dumpable: %w", err)
	}
	return nil
}
