package main

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const nfcPrefix = "/nfc/"

// lease is our store behind a lease: what is PUT becomes the content of the disk, what is GET is that of the disk. The
// library throws away the one and has not the other.
type lease struct {
	mo.HttpNfcLease

	server  *server
	imports bool
	files   map[string]*disk
	timer   *time.Timer

	mu       sync.Mutex
	manifest []types.HttpNfcLeaseManifestEntry
}

func thumbprint(certificate []byte) string {
	sum := sha1.Sum(certificate)
	parts := make([]string, len(sum))
	for i, each := range sum {
		parts[i] = fmt.Sprintf("%02X", each)
	}
	return strings.Join(parts, ":")
}

// newLease makes a lease for the disks of a VM.
func (s *server) newLease(vm *simulator.VirtualMachine, imports bool) (*lease, error) {
	l := &lease{server: s, imports: imports, files: map[string]*disk{}}
	number := atomic.AddInt64(&s.counter, 1)
	l.Self = types.ManagedObjectReference{Type: "HttpNfcLease", Value: fmt.Sprintf("session[52aa]lease-%d", number)}
	l.State = types.HttpNfcLeaseStateInitializing
	info := &types.HttpNfcLeaseInfo{Lease: l.Self, Entity: vm.Self, LeaseTimeout: int32(s.leaseTimeout.Seconds())}
	for _, device := range vm.Config.Hardware.Device {
		virtual, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		backing := virtual.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		_, file, fault := place(backing.FileName)
		if fault != nil {
			return nil, fmt.Errorf("%s: %T", backing.FileName, fault)
		}
		d := &disk{file: file, flat: flatName(file), capacity: virtual.CapacityInKB * 1024}
		d.thin = backing.ThinProvisioned != nil && *backing.ThinProvisioned
		if imports {
			if err := d.make(nil); err != nil {
				return nil, err
			}
		}
		name := fmt.Sprintf("disk-%d.vmdk", len(l.files))
		l.files[name] = d
		d.key = fmt.Sprintf("/%s/VirtualLsiLogicController0:%d", vm.Self.Value, len(l.files)-1)
		info.TotalDiskCapacityInKB += virtual.CapacityInKB
		info.DeviceUrl = append(info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{
			Key:           d.key,
			ImportKey:     fmt.Sprintf("/%s/VirtualLsiLogicController0:%d", vm.Name, len(l.files)-1),
			Url:           "https://*" + nfcPrefix + l.Self.Value + "/" + name,
			SslThumbprint: thumbprint(s.certificate),
			Disk:          types.NewBool(true),
			TargetId:      name,
		})
	}
	simulator.Map.Put(l)
	s.leases.Store(l.Self.Value, l)
	become := func() {
		simulator.Map.Update(l, []types.PropertyChange{
			{Name: "info", Val: *info}, {Name: "state", Val: types.HttpNfcLeaseStateReady}})
	}
	if wait := s.control.seconds("lease-initializing"); wait > 0 {
		time.AfterFunc(wait, func() { simulator.Map.WithLock(l, become) })
	} else {
		become()
	}
	l.timer = time.AfterFunc(s.leaseTimeout, func() { l.fail(&types.Timedout{}, "no progress") })
	return l, nil
}

// fail ends the lease, and with it the VM of an import.
func (l *lease) fail(fault types.BaseMethodFault, message string) {
	simulator.Map.WithLock(l, func() { l.end(fault, message) })
}

// end is fail for whoever has the lock.
func (l *lease) end(fault types.BaseMethodFault, message string) {
	if l.State != types.HttpNfcLeaseStateReady && l.State != types.HttpNfcLeaseStateInitializing {
		return
	}
	l.timer.Stop()
	entity := l.entity()
	simulator.Map.Update(l, []types.PropertyChange{
		{Name: "error", Val: types.LocalizedMethodFault{Fault: fault, LocalizedMessage: message}},
		{Name: "state", Val: types.HttpNfcLeaseStateError}})
	if vm, ok := simulator.Map.Get(entity).(*simulator.VirtualMachine); ok && l.imports {
		ctx := &simulator.Context{Map: simulator.Map, Session: &simulator.Session{}}
		simulator.Map.WithLock(vm, func() { vm.DestroyTask(ctx, &types.Destroy_Task{This: entity}) })
	}
}

func (l *lease) entity() types.ManagedObjectReference {
	if l.Info == nil {
		return types.ManagedObjectReference{}
	}
	return l.Info.Entity
}

func (l *lease) open() *soap.Fault {
	if l.State == types.HttpNfcLeaseStateReady {
		return nil
	}
	return simulator.Fault("the lease is not ready", &types.InvalidState{})
}

func (l *lease) HttpNfcLeaseProgress(_ *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	if fault := l.open(); fault != nil {
		return &methods.HttpNfcLeaseProgressBody{Fault_: fault}
	}
	l.timer.Reset(l.server.leaseTimeout)
	l.TransferProgress = req.Percent
	return &methods.HttpNfcLeaseProgressBody{Res: new(types.HttpNfcLeaseProgressResponse)}
}

func (l *lease) HttpNfcLeaseComplete(_ *simulator.Context, _ *types.HttpNfcLeaseComplete) soap.HasFault {
	if fault := l.open(); fault != nil {
		return &methods.HttpNfcLeaseCompleteBody{Fault_: fault}
	}
	l.timer.Stop()
	simulator.Map.Update(l, []types.PropertyChange{{Name: "state", Val: types.HttpNfcLeaseStateDone}})
	return &methods.HttpNfcLeaseCompleteBody{Res: new(types.HttpNfcLeaseCompleteResponse)}
}

// HttpNfcLeaseAbort removes the VM of an import, which the library leaves.
func (l *lease) HttpNfcLeaseAbort(_ *simulator.Context, _ *types.HttpNfcLeaseAbort) soap.HasFault {
	if l.State != types.HttpNfcLeaseStateReady && l.State != types.HttpNfcLeaseStateInitializing {
		return &methods.HttpNfcLeaseAbortBody{Fault_: l.open()}
	}
	l.end(&types.RequestCanceled{}, "aborted by the client")
	return &methods.HttpNfcLeaseAbortBody{Res: new(types.HttpNfcLeaseAbortResponse)}
}

func (l *lease) HttpNfcLeaseGetManifest(_ *simulator.Context, _ *types.HttpNfcLeaseGetManifest) soap.HasFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &methods.HttpNfcLeaseGetManifestBody{
		Res: &types.HttpNfcLeaseGetManifestResponse{Returnval: append([]types.HttpNfcLeaseManifestEntry{}, l.manifest...)},
	}
}

// CreateImportSpec takes a capacity without units for bytes, as the standard (DSP0243) has it.
func (e *extra) CreateImportSpec(ctx *simulator.Context, req *types.CreateImportSpec) soap.HasFault {
	if !strings.Contains(req.OvfDescriptor, "capacityAllocationUnits") {
		req.OvfDescriptor = strings.ReplaceAll(
			req.OvfDescriptor, "ovf:capacity=", `ovf:capacityAllocationUnits="byte * 2^0" ovf:capacity=`)
	}
	return simulator.Map.Get(e.of).(*simulator.OvfManager).CreateImportSpec(ctx, req)
}

// ImportVApp has the library make the VM, and gives a lease of ours for it.
func (e *extra) ImportVApp(ctx *simulator.Context, req *types.ImportVApp) soap.HasFault {
	pool, ok := simulator.Map.Get(e.of).(*simulator.ResourcePool)
	if !ok {
		return &methods.ImportVAppBody{Fault_: simulator.Fault("", &types.NotSupported{})}
	}
	if spec, ok := req.Spec.(*types.VirtualMachineImportSpec); ok && spec.ConfigSpec.Files != nil {
		name := spec.ConfigSpec.Files.VmPathName
		if ds, _, fault := place(name); fault != nil {
			return &methods.ImportVAppBody{Fault_: simulator.Fault("", fault)}
		} else if fault := e.room(name, ds); fault != nil {
			return &methods.ImportVAppBody{Fault_: simulator.Fault("", fault)}
		}
	}
	body := pool.ImportVApp(ctx, req).(*methods.ImportVAppBody)
	if body.Fault_ != nil {
		return body
	}
	theirs := ctx.Session.Get(body.Res.Returnval).(*simulator.HttpNfcLease)
	entity := theirs.Info.Entity
	theirs.HttpNfcLeaseComplete(ctx, &types.HttpNfcLeaseComplete{This: body.Res.Returnval})
	l, err := e.server.newLease(simulator.Map.Get(entity).(*simulator.VirtualMachine), true)
	if err != nil {
		return &methods.ImportVAppBody{Fault_: simulator.Fault(err.Error(), &types.FileFault{})}
	}
	body.Res.Returnval = l.Self
	return body
}

// ExportVm is not in the library at all.
func (e *extra) ExportVm(_ *simulator.Context, _ *types.ExportVm) soap.HasFault {
	vm, ok := simulator.Map.Get(e.of).(*simulator.VirtualMachine)
	if !ok {
		return &methods.ExportVmBody{Fault_: simulator.Fault("", &types.NotSupported{})}
	}
	if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return &methods.ExportVmBody{Fault_: simulator.Fault("", &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: vm.Runtime.PowerState})}
	}
	l, err := e.server.newLease(vm, false)
	if err != nil {
		return &methods.ExportVmBody{Fault_: simulator.Fault(err.Error(), &types.FileFault{})}
	}
	return &methods.ExportVmBody{Res: &types.ExportVmResponse{Returnval: l.Self}}
}

func (s *server) nfc(w http.ResponseWriter, r *http.Request) {
	each := s.control.record(&call{Kind: "nfc", Method: r.Method, Object: strings.TrimPrefix(r.URL.Path, nfcPrefix)})
	each.Arguments = r.Header
	parts := strings.SplitN(each.Object, "/", 2)
	found, ok := s.leases.Load(parts[0])
	if !ok || len(parts) < 2 {
		http.NotFound(w, r)
		return
	}
	l := found.(*lease)
	d, ok := l.files[parts[1]]
	if !ok || l.open() != nil {
		http.NotFound(w, r)
		return
	}
	spool := path.Join(s.spool, fmt.Sprintf("%d.vmdk", atomic.AddInt64(&s.counter, 1)))
	defer os.Remove(spool)
	switch {
	case l.imports && (r.Method == http.MethodPut || r.Method == http.MethodPost):
		l.receive(w, r, d, each, spool)
	case !l.imports && r.Method == http.MethodGet:
		l.send(w, r, d, each, spool)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (l *lease) receive(w http.ResponseWriter, r *http.Request, d *disk, each *call, spool string) {
	f, err := os.Create(spool)
	check(err)
	defer f.Close()
	body := l.server.control.transfer(r, r.Body, each)
	refuse := func(fault types.BaseMethodFault, message string) {
		l.fail(fault, message)
		http.Error(w, message, http.StatusInternalServerError)
	}
	if room, full := l.server.control.limit("datastore-full"); full {
		if n, _ := io.CopyN(f, body, room); n == room {
			refuse(&types.NoDiskSpace{FileFault: types.FileFault{File: path.Base(d.file)}}, "no space left")
			return
		}
	} else if _, err := io.Copy(f, body); errors.Is(err, errLease) {
		refuse(&types.HostCommunication{}, "the host was lost")
		return
	} else if err != nil {
		log.Printf("nfc: %s", err)
		return
	}
	source, err := readDisk(spool)
	if err == nil && (source.flat != "" || source.capacity != d.capacity) {
		err = fmt.Errorf("not the disk that was announced: %d bytes, not %d", source.capacity, d.capacity)
	}
	if err == nil {
		err = d.make(source)
	}
	if err != nil {
		refuse(&types.FileFault{File: path.Base(d.file)}, err.Error())
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (l *lease) send(w http.ResponseWriter, r *http.Request, d *disk, each *call, spool string) {
	if err := convert("-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", d.flat, spool); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	f, err := os.Open(spool)
	check(err)
	defer f.Close()
	w.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
	sum := sha1.New()
	// Without a length, as ESXi does.
	n, err := io.Copy(w, io.TeeReader(l.server.control.transfer(r, f, each), sum))
	if err != nil {
		l.fail(&types.HostCommunication{}, "the host was lost")
		panic(http.ErrAbortHandler)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.manifest = append(l.manifest, types.HttpNfcLeaseManifestEntry{
		Key: d.key, Sha1: hex.EncodeToString(sum.Sum(nil)), Size: n, Disk: true, Capacity: d.capacity})
}
