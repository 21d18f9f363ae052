package vaulttest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Postgres is a PostgreSQL server on loopback, in a directory of its own, that ends with the test.
type Postgres struct {
	Port     int
	Admin    string
	Password string
	psql     string
}

// NewPostgres starts one, or skips the test where there is none.
func NewPostgres(t testing.TB) *Postgres {
	t.Helper()
	initdb, server, psql := find("initdb"), find("postgres"), find("psql")
	if initdb == "" || server == "" || psql == "" {
		t.Skip("no PostgreSQL: make vault-test installs it")
	}
	dir, err := os.MkdirTemp("", "postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &Postgres{Port: freePort(t), Admin: "admin", Password: "c4n4ry-admin", psql: psql}
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(p.Password), 0o644); err != nil {
		t.Fatal(err)
	}
	owner := notRoot(t, dir)
	data := filepath.Join(dir, "data")
	prepare := exec.Command(initdb, "-D", data, "-U", p.Admin, "--auth=scram-sha-256", "--pwfile="+password, "-N")
	prepare.SysProcAttr, prepare.Dir = owner, dir
	if out, err := prepare.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	run := exec.Command(server, "-D", data, "-h", "127.0.0.1", "-p", strconv.Itoa(p.Port), "-k", dir, "-F")
	run.SysProcAttr, run.Dir = owner, dir
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Process.Signal(syscall.SIGQUIT) // at once
		_ = run.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); p.Login(p.Admin, p.Password) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("PostgreSQL did not start")
		}
		<-time.After(50 * time.Millisecond)
	}
	return p
}

// find returns a program of PostgreSQL, which Debian keeps outside PATH.
func find(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is right
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// notRoot gives dir to the user postgres, as whom the server runs where the test runs as root: it refuses that.
func notRoot(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		t.Skipf("no user for PostgreSQL: %v", err)
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Login fails unless a user with a password may use the database.
func (p *Postgres) Login(user, password string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.psql, "-h", "127.0.0.1", "-p", strconv.Itoa(p.Port), "-U", user, "-d", "postgres", "-c", "select 1")
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password, "PGCONNECT_TIMEOUT=5")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("psql: %w: %s", err, out)
	}
	return nil
}

// Database mounts a database engine of s that manages p, and returns its path. It has no roles.
func (p *Postgres) Database(t testing.TB, s *Server) string {
	t.Helper()
	mount := s.Mount(t, "database")
	s.Put(t, mount+"/config/pg", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/postgres?sslmode=disable", p.Port),
		"username":       p.Admin, "password": p.Password,
	})
	return mount
}
