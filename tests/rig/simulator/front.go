package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// server is what listens: it keeps what is asked, answers what is ours and leaves the rest to the library.
type server struct {
	service      *simulator.Service
	control      *control
	certificate  []byte
	spool        string
	leaseTimeout time.Duration

	sessions  sync.Map // key -> user
	cancelled sync.Map // reference of a task
	leases    sync.Map // reference -> *lease
	counter   int64
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == "/sdk" || path == "/sdk/vimService":
		s.soap(w, r)
	case path == "/sdk/vimServiceVersions.xml":
		s.service.ServiceVersions(w, r)
	case strings.HasPrefix(path, folderPrefix):
		s.folder(w, r)
	case strings.HasPrefix(path, nfcPrefix):
		s.nfc(w, r)
	default:
		http.NotFound(w, r)
	}
}

// ours are the methods that the library lacks, or does in a way that a vCenter does not.
var ours = map[string]bool{
	"ImportVApp":                     true, // what is PUT to the lease of the library is thrown away
	"CreateImportSpec":               true, // takes a capacity without units for KiB
	"ExportVm":                       true, // not there
	"CreateVirtualDisk_Task":         true, // makes files without content
	"CopyVirtualDisk_Task":           true, // no spec, no disk in a single file
	"MoveVirtualDisk_Task":           true, // no disk in a single file, and descriptors keep the old name
	"DeleteVirtualDisk_Task":         true, // no disk in a single file
	"ExtendVirtualDisk_Task":         true, // not there
	"InflateVirtualDisk_Task":        true, // not there
	"EagerZeroVirtualDisk_Task":      true, // not there
	"RefreshDatastore":               true, // answers nothing
	"CancelTask":                     true, // not there
	"MakeDirectory":                  true, // with parents, no FileAlreadyExists
	"QueryConfigOptionEx":            true, // leaves out what must be there
	"SearchDatastore_Task":           true, // no capacity of disks
	"SearchDatastoreSubFolders_Task": true, // the same
}

// extra has these methods, in place of the object that it stands for.
type extra struct {
	Self   types.ManagedObjectReference
	of     types.ManagedObjectReference
	server *server
}

func (e *extra) Reference() types.ManagedObjectReference { return e.Self }

var this = regexp.MustCompile(`<_this\b[^>]*>[^<]*</_this>`)

// detour has the request go to an extra: the library looks up the object, and the session, as it always does.
func (s *server) detour(method *simulator.Method, body []byte) []byte {
	ref := types.ManagedObjectReference{Type: "Extra", Value: method.This.Type + ":" + method.This.Value}
	if simulator.Map.Get(ref) == nil {
		if simulator.Map.Get(method.This) == nil {
			return body
		}
		simulator.Map.Put(&extra{ref, method.This, s})
	}
	return this.ReplaceAllLiteral(body, []byte(fmt.Sprintf(`<_this type="Extra">%s</_this>`, ref.Value)))
}

func (s *server) soap(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	method, err := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err == nil {
		each := &call{Kind: "soap", Method: method.Name, Object: method.This.Value, Bytes: int64(len(body)), Whole: true}
		if !strings.HasPrefix(method.Name, "Retrieve") && !strings.HasPrefix(method.Name, "Login") {
			each.Arguments = method.Body
		}
		s.control.record(each)
		if fault := s.control.methodFault(method.Name, method.This); fault != nil {
			s.fail(w, method, fault)
			return
		}
		// Without a login the library refuses, and names the object that was meant.
		if ours[method.Name] && s.signedIn(r) {
			body = s.detour(method, body)
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.service.ServeSDK(w, r)
	if method != nil && s.control.option("slow-method", "method") == method.Name {
		time.Sleep(s.control.seconds("slow-method"))
	}
	for _, cookie := range (&http.Response{Header: w.Header()}).Cookies() {
		if cookie.Name == soap.SessionCookieName && method != nil {
			if login, ok := method.Body.(*types.Login); ok {
				s.sessions.Store(cookie.Value, login.UserName)
			}
		}
	}
}

// fail answers with a fault that a test asked for, or with a task that failed so.
func (s *server) fail(w http.ResponseWriter, method *simulator.Method, fault types.BaseMethodFault) {
	var content bytes.Buffer
	if strings.HasSuffix(method.Name, "_Task") {
		task := simulator.CreateTask(simulator.Map.Get(method.This), method.Name,
			func(*simulator.Task) (types.AnyType, types.BaseMethodFault) { return nil, fault })
		fmt.Fprintf(&content, `<%sResponse xmlns="urn:vim25"><returnval type="Task">%s</returnval></%sResponse>`,
			method.Name, task.Run().Value, method.Name)
	} else {
		w.WriteHeader(http.StatusInternalServerError)
		name := reflect.TypeOf(fault).Elem().Name()
		content.WriteString("<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>as the test wants</faultstring><detail>")
		check(xml.NewEncoder(&content).EncodeElement(fault, xml.StartElement{
			Name: xml.Name{Local: name + "Fault"},
			Attr: []xml.Attr{
				{Name: xml.Name{Local: "xmlns"}, Value: "urn:vim25"},
				{Name: xml.Name{Local: "xsi:type"}, Value: name},
			},
		}))
		content.WriteString("</detail></soapenv:Fault>")
	}
	fmt.Fprintf(w, `%s<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"`+
		` xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">`+
		`<soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`, xml.Header, content.String())
}

// signedIn tells whether the request has the cookie of a session that lives.
func (s *server) signedIn(r *http.Request) bool {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return false
	}
	user, known := s.sessions.Load(cookie.Value)
	return known && s.active(cookie.Value, user.(string))
}

func (s *server) active(key, user string) bool {
	ctx := &simulator.Context{Map: simulator.Map}
	answer := simulator.Map.SessionManager().SessionIsActive(ctx, &types.SessionIsActive{SessionID: key, UserName: user})
	return reflect.ValueOf(answer).Elem().FieldByName("Res").Elem().FieldByName("Returnval").Bool()
}

func (s *server) endSessions() {
	ctx := &simulator.Context{Map: simulator.Map, Session: &simulator.Session{}}
	s.sessions.Range(func(key, _ interface{}) bool {
		simulator.Map.SessionManager().TerminateSession(ctx, &types.TerminateSession{SessionId: []string{key.(string)}})
		s.sessions.Delete(key)
		return true
	})
}

// run has a task do its work, for as long as the test wants it to take. A slow one is not waited for.
func (s *server) run(task *simulator.Task) types.ManagedObjectReference {
	delay := s.control.seconds("slow-task")
	if delay == 0 {
		return task.Run()
	}
	update := func(changes ...types.PropertyChange) {
		simulator.Map.WithLock(task, func() { simulator.Map.Update(task, changes) })
	}
	update(types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateRunning})
	go func() {
		for i := int32(0); i < 10; i++ {
			update(types.PropertyChange{Name: "info.progress", Val: i * 10})
			time.Sleep(delay / 10)
			if _, over := s.cancelled.Load(task.Self.Value); over {
				update(
					types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{Fault: &types.RequestCanceled{}}},
					types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
				return
			}
		}
		result, fault := task.Execute(task)
		if fault != nil {
			update(
				types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{
					Fault: fault, LocalizedMessage: fmt.Sprintf("%T", fault)}},
				types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
			return
		}
		update(
			types.PropertyChange{Name: "info.result", Val: result},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateSuccess})
	}()
	return task.Self
}
