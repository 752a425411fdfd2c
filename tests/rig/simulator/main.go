// A vCenter for the tests: govmomi's simulator behind TLS, with what that library lacks added in the files beside this.
//
// It writes one line of JSON when it is ready, serves until its standard input ends, and so never outlives the test.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
)

type options struct {
	certificate, key string
	user, password   string
	idle, lease      time.Duration
	datacenter       string
	folder           string
	clusters         int
	datastores       pairs
}

// pairs are the values of an option that may be repeated: name=directory.
type pairs []string

func (p *pairs) String() string { return strings.Join(*p, " ") }

func (p *pairs) Set(text string) error {
	*p = append(*p, text)
	return nil
}

func parse() options {
	var o options
	flag.StringVar(&o.certificate, "certificate", "", "PEM file of the server's certificate")
	flag.StringVar(&o.key, "key", "", "PEM file of its key")
	flag.StringVar(&o.user, "user", "administrator@vsphere.local", "who may log in")
	flag.StringVar(&o.password, "password", "", "and with which password")
	flag.DurationVar(&o.idle, "idle", 0, "a session that is idle for so long ends; 0: never")
	flag.DurationVar(&o.lease, "lease", 5*time.Minute, "a lease without progress for so long ends")
	flag.StringVar(&o.datacenter, "datacenter", "DC0", "name of the datacenter")
	flag.StringVar(&o.folder, "folder", "", "name of a folder that holds the datacenter")
	flag.IntVar(&o.clusters, "clusters", 1, "how many there are, of one host each")
	flag.Var(&o.datastores, "datastore", "name=directory, may be repeated")
	flag.Parse()
	return o
}

func main() {
	o := parse()
	log.SetOutput(os.Stderr)
	simulator.SessionIdleTimeout = o.idle

	model := simulator.VPX()
	model.Cluster = o.clusters
	model.Machine, model.Datastore, model.Host, model.ClusterHost = 0, 0, 0, 1
	check(model.Create())
	model.Service.Listen = &url.URL{User: url.UserPassword(o.user, o.password)}
	model.Service.RegisterSDK(simulator.Map)

	pair, err := tls.LoadX509KeyPair(o.certificate, o.key)
	check(err)
	spool, err := os.MkdirTemp("", "vcenter-")
	check(err)
	quit := func(status int) {
		_ = os.RemoveAll(spool)
		os.Exit(status)
	}

	s := &server{service: model.Service, control: newControl(quit), spool: spool, leaseTimeout: o.lease}
	s.certificate = pair.Certificate[0]
	s.control.endSessions = s.endSessions
	ready := s.furnish(o)

	secure, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	ready.Port, ready.Control = port(secure), port(plain)
	go func() {
		check(http.Serve(tls.NewListener(secure, &tls.Config{Certificates: []tls.Certificate{pair}}), s))
	}()
	go func() { check(http.Serve(plain, s.control)) }()

	check(json.NewEncoder(os.Stdout).Encode(ready))
	_, _ = io.Copy(io.Discard, os.Stdin)
	quit(0)
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
