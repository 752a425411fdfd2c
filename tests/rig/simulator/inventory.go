package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ready is what the test needs to know.
type ready struct {
	Port           int         `json:"port"`
	Control        int         `json:"control_port"`
	Datacenter     string      `json:"datacenter_ref"`
	DatacenterName string      `json:"datacenter"`
	DatacenterPath string      `json:"datacenter_path"`
	Datastores     []datastore `json:"datastores"`
	Cluster        string      `json:"cluster_ref"`
	Pool           string      `json:"resource_pool_ref"`
	Host           string      `json:"host_ref"`
	VMFolder       string      `json:"vm_folder_ref"`
	InstanceID     string      `json:"instance_uuid"`
}

type datastore struct {
	Ref       string `json:"ref"`
	Name      string `json:"name"`
	Directory string `json:"directory"`
}

// furnish makes the inventory that the options ask for, and tells about it.
func (s *server) furnish(o options) ready {
	var r ready
	ctx := context.Background()
	client, err := vim25.NewClient(ctx, s.service)
	check(err)
	dc := simulator.Map.Any("Datacenter").(*simulator.Datacenter)
	simulator.Map.Update(dc, []types.PropertyChange{{Name: "name", Val: o.datacenter}})
	r.Datacenter, r.DatacenterName, r.DatacenterPath = dc.Self.Value, o.datacenter, o.datacenter
	if o.folder != "" {
		folder, err := object.NewRootFolder(client).CreateFolder(ctx, o.folder)
		check(err)
		task, err := folder.MoveInto(ctx, []types.ManagedObjectReference{dc.Self})
		check(err)
		check(task.Wait(ctx))
		r.DatacenterPath = o.folder + "/" + o.datacenter
	}
	for i, text := range o.datastores {
		parts := strings.SplitN(text, "=", 2)
		ref := s.addDatastore(dc, fmt.Sprintf("datastore-%d", 12+i), parts[0], parts[1])
		r.Datastores = append(r.Datastores, datastore{ref.Value, parts[0], parts[1]})
	}
	cluster := simulator.Map.Any("ClusterComputeResource").(*simulator.ClusterComputeResource)
	r.Cluster, r.Pool, r.Host = cluster.Self.Value, cluster.ResourcePool.Value, cluster.Host[0].Value
	r.VMFolder = dc.VmFolder.Value
	r.InstanceID = client.ServiceContent.About.InstanceUuid
	return r
}

// addDatastore does what the library's CreateLocalDatastore does, on all hosts, and names the datastore as vCenter does:
// the library's reference would be its path.
func (s *server) addDatastore(
	dc *simulator.Datacenter, ref, name, directory string,
) types.ManagedObjectReference {
	d := &simulator.Datastore{}
	d.Self = types.ManagedObjectReference{Type: "Datastore", Value: ref}
	d.Name = name
	d.Parent = &dc.DatastoreFolder
	d.Info = &types.LocalDatastoreInfo{DatastoreInfo: types.DatastoreInfo{Name: name, Url: directory}, Path: directory}
	d.Summary = types.DatastoreSummary{
		Datastore: &d.Self, Name: name, Url: directory, Accessible: true,
		Type:            string(types.HostFileSystemVolumeFileSystemTypeOTHER),
		MaintenanceMode: string(types.DatastoreSummaryMaintenanceModeStateNormal),
	}
	d.Capability.PerFileThinProvisioningSupported = true
	d.Capability.DirectoryHierarchySupported = true
	for _, entity := range simulator.Map.All("HostSystem") {
		host := entity.(*simulator.HostSystem)
		system := simulator.Map.Get(*host.ConfigManager.DatastoreSystem).(*simulator.HostDatastoreSystem)
		system.Datastore = append(system.Datastore, d.Self)
		host.Datastore = system.Datastore
		d.Host = append(d.Host, types.DatastoreHostMount{
			Key: host.Self,
			MountInfo: types.HostMountInfo{
				AccessMode: string(types.HostMountModeReadWrite),
				Mounted:    types.NewBool(true),
				Accessible: types.NewBool(true),
			},
		})
	}
	for _, entity := range simulator.Map.All("ClusterComputeResource") {
		cluster := entity.(*simulator.ClusterComputeResource)
		cluster.Datastore = append(cluster.Datastore, d.Self)
	}
	dc.Datastore = append(dc.Datastore, d.Self)
	folder := simulator.Map.Get(dc.DatastoreFolder).(*simulator.Folder)
	folder.ChildEntity = append(folder.ChildEntity, d.Self)
	browser := &simulator.HostDatastoreBrowser{}
	browser.Datastore = []types.ManagedObjectReference{d.Self}
	d.Browser = simulator.Map.Put(browser).Reference()
	simulator.Map.Put(d)
	d.RefreshDatastore(&types.RefreshDatastore{This: d.Self})
	return d.Self
}

// datacenterPath is the inventory path without the root folder, as in the dcPath of a URL.
func datacenterPath(dc *simulator.Datacenter) string {
	names := []string{dc.Name}
	for parent := dc.Parent; parent != nil; {
		entity := simulator.Map.Get(*parent).(mo.Entity).Entity()
		if entity.Parent == nil {
			break
		}
		names = append([]string{entity.Name}, names...)
		parent = entity.Parent
	}
	return strings.Join(names, "/")
}

// RefreshDatastore has an answer, and finds no space where the test wants none.
func (e *extra) RefreshDatastore(_ *simulator.Context, _ *types.RefreshDatastore) soap.HasFault {
	d := simulator.Map.Get(e.of).(*simulator.Datastore)
	full := e.server.control.wants("datastore-full")
	simulator.Map.WithLock(d, func() {
		d.RefreshDatastore(&types.RefreshDatastore{This: d.Self})
		if full {
			d.Summary.FreeSpace = 0
		}
	})
	return &methods.RefreshDatastoreBody{Res: new(types.RefreshDatastoreResponse)}
}
