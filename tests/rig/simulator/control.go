package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// call is something that a client asked for.
type call struct {
	Kind      string      `json:"kind"` // soap, folder or nfc
	Method    string      `json:"method"`
	Object    string      `json:"object"` // a reference, or a path
	Arguments interface{} `json:"arguments,omitempty"`
	Bytes     int64       `json:"bytes"`
	Whole     bool        `json:"whole"` // the body came to its end
}

// control is the tests' way to make things go wrong, and to see what was asked for:
//
//	GET  /control/calls
//	POST /control/forget                     the calls so far
//	POST /control/heal                       end all faults below
//	POST /control/fail?what=die&after=N      the server dies after N bytes of the next transfer that is as long
//	POST /control/fail?what=cut&after=N      the connection ends after N bytes of the next transfer that is as long
//	POST /control/fail?what=stall&after=N    after N bytes of the next transfer that is as long nothing moves any more
//	POST /control/fail?what=lease-error&after=N      the lease fails after N bytes
//	POST /control/fail?what=lease-initializing&seconds=S
//	POST /control/fail?what=datastore-full&after=N   N more bytes fit; with silent=yes a truncated PUT is answered with 200
//	POST /control/fail?what=slow-task&seconds=S      tasks on disks take so long
//	POST /control/fail?what=method&method=M&fault=F  the next call of M, or its task, fails; more of the query are fields of F
//	POST /control/fail?what=slow-method&method=M&seconds=S       the answers to M, which is done, take so long
//	POST /control/fail?what=session-end              of all clients, at once
type control struct {
	mu          sync.Mutex
	calls       []*call
	faults      map[string]url.Values
	methods     map[string]url.Values
	quit        func(int)
	endSessions func()
}

func newControl(quit func(int)) *control {
	return &control{quit: quit, faults: map[string]url.Values{}, methods: map[string]url.Values{}}
}

func (c *control) record(each *call) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, each)
	return each
}

func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	query := r.URL.Query()
	switch r.URL.Path {
	case "/control/calls":
		_ = json.NewEncoder(w).Encode(c.calls)
	case "/control/forget":
		c.calls = nil
	case "/control/heal":
		c.faults, c.methods = map[string]url.Values{}, map[string]url.Values{}
	case "/control/fail":
		switch what := query.Get("what"); what {
		case "session-end":
			c.endSessions()
		case "method":
			if _, known := types.TypeFunc()(query.Get("fault")); !known {
				http.Error(w, "no such fault", http.StatusBadRequest)
				return
			}
			c.methods[query.Get("method")] = query
		case "die", "cut", "stall", "lease-error", "lease-initializing", "slow-task", "slow-method", "datastore-full":
			c.faults[what] = query
		default:
			http.Error(w, "no such fault", http.StatusBadRequest)
		}
	default:
		http.NotFound(w, r)
	}
}

// methodFault is the fault that the next call of this method meets, nil for none.
func (c *control) methodFault(name string, this types.ManagedObjectReference) types.BaseMethodFault {
	c.mu.Lock()
	defer c.mu.Unlock()
	query, wanted := c.methods[name]
	if !wanted {
		return nil
	}
	delete(c.methods, name)
	kind, _ := types.TypeFunc()(query.Get("fault"))
	fault := reflect.New(kind)
	for key, values := range query {
		if field := fault.Elem().FieldByName(strings.Title(key)); field.IsValid() && field.Kind() == reflect.String {
			field.SetString(values[0])
		}
	}
	if field := fault.Elem().FieldByName("Object"); field.IsValid() {
		field.Set(reflect.ValueOf(this))
	}
	return fault.Interface().(types.BaseMethodFault)
}

func (c *control) seconds(what string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	seconds, _ := strconv.ParseFloat(c.faults[what].Get("seconds"), 64)
	return time.Duration(seconds * float64(time.Second))
}

func (c *control) option(what, key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults[what].Get(key)
}

func (c *control) wants(what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, wanted := c.faults[what]
	return wanted
}

// limit is after how many bytes this fault comes.
func (c *control) limit(what string) (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	query, wanted := c.faults[what]
	if !wanted {
		return 0, false
	}
	after, _ := strconv.ParseInt(query.Get("after"), 10, 64)
	return after, true
}

// met ends a fault that is for one transfer only: shorter ones before did not meet it.
func (c *control) met(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.faults, what)
}

// transfer is a body that is counted, and meets the faults that are wanted for it.
type transfer struct {
	io.Reader
	control *control
	call    *call
	limits  map[string]int64
	abandon <-chan struct{}
}

func (c *control) transfer(r *http.Request, body io.Reader, each *call) *transfer {
	t := &transfer{body, c, each, map[string]int64{}, r.Context().Done()}
	for _, what := range []string{"die", "cut", "stall", "lease-error"} {
		if after, wanted := c.limit(what); wanted {
			t.limits[what] = after
		}
	}
	return t
}

var errLease = fmt.Errorf("the lease failed")

// Read ends at the next limit exactly, so that the number of bytes that came through is the same each time.
func (t *transfer) Read(p []byte) (int, error) {
	for what, after := range t.limits {
		if left := after - t.call.Bytes; left > 0 {
			if left < int64(len(p)) {
				p = p[:left]
			}
			continue
		}
		t.control.met(what)
		switch what {
		case "die":
			t.control.quit(1)
		case "cut":
			panic(http.ErrAbortHandler)
		case "stall":
			// The server does not notice a client that leaves while it does not read.
			select {
			case <-t.abandon:
			case <-time.After(time.Minute):
			}
			panic(http.ErrAbortHandler)
		case "lease-error":
			return 0, errLease
		}
	}
	n, err := t.Reader.Read(p)
	t.control.mu.Lock()
	t.call.Bytes += int64(n)
	t.call.Whole = err == io.EOF
	t.control.mu.Unlock()
	return n, err
}
