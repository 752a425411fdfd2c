package main

import (
	"os"
	"path"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The methods of VirtualDiskManager, on disks that have content.

type work = func() types.BaseMethodFault

func (e *extra) task(name string, result types.AnyType, do work) types.ManagedObjectReference {
	return e.server.run(simulator.CreateTask(simulator.Map.Any("Datacenter"), name,
		func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
			if fault := do(); fault != nil {
				return nil, fault
			}
			return result, nil
		}))
}

// room is the fault for whatever wants space while the datastore is full.
func (e *extra) room(name string, ds *simulator.Datastore) types.BaseMethodFault {
	if !e.server.control.wants("datastore-full") {
		return nil
	}
	return &types.NoDiskSpace{FileFault: types.FileFault{File: name}, Datastore: ds.Name}
}

// target is where a new disk goes.
func (e *extra) target(name string, force *bool) (string, types.BaseMethodFault) {
	ds, file, fault := place(name)
	if fault != nil {
		return "", fault
	}
	if _, err := os.Stat(path.Dir(file)); err != nil {
		return "", fileFault(name, err)
	}
	for _, each := range []string{file, flatName(file)} {
		if _, err := os.Lstat(each); err == nil && (force == nil || !*force) {
			return "", fileFault(name, os.ErrExist)
		}
	}
	return file, e.room(name, ds)
}

func existing(name string) (*disk, types.BaseMethodFault) {
	_, file, fault := place(name)
	if fault != nil {
		return nil, fault
	}
	d, err := readDisk(file)
	if err != nil {
		return nil, fileFault(name, err)
	}
	return d, nil
}

func (d *disk) apply(spec types.BaseVirtualDiskSpec) {
	if spec == nil {
		return
	}
	common := spec.GetVirtualDiskSpec()
	d.thin = common.DiskType == string(types.VirtualDiskTypeThin)
	d.adapter = common.AdapterType
}

func (e *extra) CreateVirtualDiskTask(_ *simulator.Context, req *types.CreateVirtualDisk_Task) soap.HasFault {
	ref := e.task("createVirtualDisk", req.Name, func() types.BaseMethodFault {
		spec, ok := req.Spec.(*types.FileBackedVirtualDiskSpec)
		if !ok {
			return &types.InvalidArgument{InvalidProperty: "spec"}
		}
		file, fault := e.target(req.Name, nil)
		if fault != nil {
			return fault
		}
		d := &disk{file: file, capacity: spec.CapacityKb * 1024}
		d.apply(spec)
		if err := d.make(nil); err != nil {
			return fileFault(req.Name, err)
		}
		return nil
	})
	return &methods.CreateVirtualDisk_TaskBody{Res: &types.CreateVirtualDisk_TaskResponse{Returnval: ref}}
}

func (e *extra) CopyVirtualDiskTask(_ *simulator.Context, req *types.CopyVirtualDisk_Task) soap.HasFault {
	ref := e.task("copyVirtualDisk", nil, func() types.BaseMethodFault {
		source, fault := existing(req.SourceName)
		if fault != nil {
			return fault
		}
		file, fault := e.target(req.DestName, req.Force)
		if fault != nil {
			return fault
		}
		d := &disk{file: file, capacity: source.capacity, thin: source.thin, adapter: source.adapter}
		d.apply(req.DestSpec)
		if err := d.make(source); err != nil {
			_ = d.remove()
			return fileFault(req.DestName, err)
		}
		return nil
	})
	return &methods.CopyVirtualDisk_TaskBody{Res: &types.CopyVirtualDisk_TaskResponse{Returnval: ref}}
}

func (e *extra) MoveVirtualDiskTask(_ *simulator.Context, req *types.MoveVirtualDisk_Task) soap.HasFault {
	ref := e.task("moveVirtualDisk", nil, func() types.BaseMethodFault {
		d, fault := existing(req.SourceName)
		if fault != nil {
			return fault
		}
		file, fault := e.target(req.DestName, req.Force)
		if fault != nil && !isFull(fault) {
			return fault
		}
		if err := os.Rename(d.file, file); err != nil {
			return fileFault(req.SourceName, err)
		}
		if d.flat == "" {
			return nil
		}
		from := d.flat
		d.file, d.flat = file, flatName(file)
		if err := os.Rename(from, d.flat); err != nil {
			return fileFault(req.SourceName, err)
		}
		if err := d.describe(); err != nil {
			return fileFault(req.DestName, err)
		}
		return nil
	})
	return &methods.MoveVirtualDisk_TaskBody{Res: &types.MoveVirtualDisk_TaskResponse{Returnval: ref}}
}

func isFull(fault types.BaseMethodFault) bool {
	_, full := fault.(*types.NoDiskSpace)
	return full
}

func (e *extra) DeleteVirtualDiskTask(_ *simulator.Context, req *types.DeleteVirtualDisk_Task) soap.HasFault {
	ref := e.task("deleteVirtualDisk", nil, func() types.BaseMethodFault {
		d, fault := existing(req.Name)
		if fault != nil {
			return fault
		}
		if err := d.remove(); err != nil {
			return fileFault(req.Name, err)
		}
		return nil
	})
	return &methods.DeleteVirtualDisk_TaskBody{Res: &types.DeleteVirtualDisk_TaskResponse{Returnval: ref}}
}

func (e *extra) ExtendVirtualDiskTask(_ *simulator.Context, req *types.ExtendVirtualDisk_Task) soap.HasFault {
	ref := e.task("extendVirtualDisk", nil, func() types.BaseMethodFault {
		d, fault := existing(req.Name)
		if fault != nil {
			return fault
		}
		if d.flat == "" || req.NewCapacityKb*1024 < d.capacity {
			return &types.InvalidArgument{InvalidProperty: "newCapacityKb"}
		}
		d.capacity = req.NewCapacityKb * 1024
		if err := os.Truncate(d.flat, d.capacity); err != nil {
			return fileFault(req.Name, err)
		}
		if err := d.describe(); err != nil {
			return fileFault(req.Name, err)
		}
		return nil
	})
	return &methods.ExtendVirtualDisk_TaskBody{Res: &types.ExtendVirtualDisk_TaskResponse{Returnval: ref}}
}

// thicken is what inflating and zeroing come to: the files here have holes anyway.
func (e *extra) thicken(task, name string) types.ManagedObjectReference {
	return e.task(task, nil, func() types.BaseMethodFault {
		d, fault := existing(name)
		if fault != nil {
			return fault
		}
		d.thin = false
		if err := d.describe(); err != nil {
			return fileFault(name, err)
		}
		return nil
	})
}

func (e *extra) InflateVirtualDiskTask(_ *simulator.Context, req *types.InflateVirtualDisk_Task) soap.HasFault {
	ref := e.thicken("inflateVirtualDisk", req.Name)
	return &methods.InflateVirtualDisk_TaskBody{Res: &types.InflateVirtualDisk_TaskResponse{Returnval: ref}}
}

func (e *extra) EagerZeroVirtualDiskTask(_ *simulator.Context, req *types.EagerZeroVirtualDisk_Task) soap.HasFault {
	ref := e.thicken("eagerZeroVirtualDisk", req.Name)
	return &methods.EagerZeroVirtualDisk_TaskBody{Res: &types.EagerZeroVirtualDisk_TaskResponse{Returnval: ref}}
}

// CancelTask ends a task that the test has made slow.
func (e *extra) CancelTask(_ *simulator.Context, _ *types.CancelTask) soap.HasFault {
	e.server.cancelled.Store(e.of.Value, true)
	return &methods.CancelTaskBody{Res: new(types.CancelTaskResponse)}
}

// MakeDirectory has the fault for a directory that is there, with parents or without.
func (e *extra) MakeDirectory(_ *simulator.Context, req *types.MakeDirectory) soap.HasFault {
	body := &methods.MakeDirectoryBody{Res: new(types.MakeDirectoryResponse)}
	_, file, fault := place(req.Name)
	if fault == nil {
		if _, err := os.Lstat(file); err == nil {
			fault = fileFault(req.Name, os.ErrExist)
		} else if req.CreateParentDirectories != nil && *req.CreateParentDirectories {
			err = os.MkdirAll(file, 0700)
		} else if err = os.Mkdir(file, 0700); err != nil {
			fault = fileFault(req.Name, err)
		}
	}
	if fault != nil {
		body.Res, body.Fault_ = nil, simulator.Fault("", fault)
	}
	return body
}

// The search of the datastore browser: as a vCenter, it takes a disk and its extents for one file, with a capacity.

func (e *extra) search(spec *types.HostDatastoreBrowserSearchSpec, folder string, deep bool) (
	[]types.HostDatastoreBrowserSearchResults, types.BaseMethodFault,
) {
	ds, directory, fault := place(folder)
	if fault != nil {
		return nil, fault
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, fileFault(folder, err)
	}
	found := []types.HostDatastoreBrowserSearchResults{{Datastore: &ds.Self, FolderPath: folder}}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			continue
		}
		if file := describeFile(spec, directory, info); file != nil {
			found[0].File = append(found[0].File, file)
		}
		if deep && entry.IsDir() {
			below, _ := e.search(spec, strings.TrimSuffix(folder, "/")+"/"+entry.Name(), true)
			found = append(found, below...)
		}
	}
	return found, nil
}

func describeFile(spec *types.HostDatastoreBrowserSearchSpec, directory string, info os.FileInfo) types.BaseFileInfo {
	if spec == nil {
		spec = &types.HostDatastoreBrowserSearchSpec{}
	}
	matches := len(spec.MatchPattern) == 0
	for _, pattern := range spec.MatchPattern {
		// Only * and ? are special there.
		ok, _ := path.Match(strings.NewReplacer("[", `\[`, `\`, `\\`).Replace(pattern), info.Name())
		matches = matches || ok
	}
	if !matches {
		return nil
	}
	common := types.FileInfo{Path: info.Name()}
	if spec.Details != nil && spec.Details.FileSize {
		common.FileSize = info.Size()
	}
	if spec.Details != nil && spec.Details.Modification {
		modified := info.ModTime()
		common.Modification = &modified
	}
	var query *types.VmDiskFileQuery
	folders := len(spec.Query) == 0
	others := len(spec.Query) == 0
	for _, each := range spec.Query {
		switch q := each.(type) {
		case *types.VmDiskFileQuery:
			query = q
		case *types.FolderFileQuery:
			folders = true
		case *types.FileQuery:
			folders, others = true, true
		}
	}
	if info.IsDir() {
		if folders {
			return &types.FolderFileInfo{FileInfo: common}
		}
		return nil
	}
	if query != nil && path.Ext(info.Name()) == ".vmdk" && !strings.HasSuffix(info.Name(), "-flat.vmdk") {
		d, err := readDisk(path.Join(directory, info.Name()))
		if err == nil {
			if flat, err := os.Stat(d.flat); err == nil {
				common.FileSize = flat.Size()
			}
			file := &types.VmDiskFileInfo{FileInfo: common}
			if query.Details != nil && query.Details.CapacityKb {
				file.CapacityKb = d.capacity / 1024
			}
			if query.Details != nil && query.Details.Thin != nil && *query.Details.Thin {
				file.Thin = types.NewBool(d.thin)
			}
			return file
		}
	}
	if others {
		return &common
	}
	return nil
}

func (e *extra) SearchDatastoreTask(_ *simulator.Context, req *types.SearchDatastore_Task) soap.HasFault {
	task := simulator.CreateTask(simulator.Map.Any("Datacenter"), "searchDatastore",
		func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
			found, fault := e.search(req.SearchSpec, req.DatastorePath, false)
			if fault != nil {
				return nil, fault
			}
			return found[0], nil
		})
	return &methods.SearchDatastore_TaskBody{Res: &types.SearchDatastore_TaskResponse{Returnval: task.Run()}}
}

func (e *extra) SearchDatastoreSubFoldersTask(
	_ *simulator.Context, req *types.SearchDatastoreSubFolders_Task,
) soap.HasFault {
	task := simulator.CreateTask(simulator.Map.Any("Datacenter"), "searchDatastoreSubFolders",
		func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
			found, fault := e.search(req.SearchSpec, req.DatastorePath, true)
			if fault != nil {
				return nil, fault
			}
			return types.ArrayOfHostDatastoreBrowserSearchResults{HostDatastoreBrowserSearchResults: found}, nil
		})
	return &methods.SearchDatastoreSubFolders_TaskBody{
		Res: &types.SearchDatastoreSubFolders_TaskResponse{Returnval: task.Run()},
	}
}
