package main

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// QueryConfigOptionEx tells what guest systems can have; the library tells their names only, without what must be there.
func (e *extra) QueryConfigOptionEx(_ *simulator.Context, req *types.QueryConfigOptionEx) soap.HasFault {
	wanted := map[string]bool{}
	if req.Spec != nil {
		for _, id := range req.Spec.GuestId {
			wanted[id] = true
		}
	}
	var matching, all []types.GuestOsDescriptor
	for _, each := range simulator.GuestID {
		all = append(all, descriptor(string(each)))
		if wanted[string(each)] {
			matching = append(matching, descriptor(string(each)))
		}
	}
	// As the reference says: without a match it is the whole list.
	if len(matching) == 0 {
		matching = all
	}
	return &methods.QueryConfigOptionExBody{Res: &types.QueryConfigOptionExResponse{
		Returnval: &types.VirtualMachineConfigOption{
			Version: "vmx-13", Description: "ESXi 6.5 virtual machine", GuestOSDescriptor: matching,
		},
	}}
}

// descriptor is that of a guest system of one of four kinds.
func descriptor(id string) types.GuestOsDescriptor {
	d := types.GuestOsDescriptor{
		Id: id, Family: "otherGuestFamily", FullName: id, SupportLevel: "supported",
		SupportedDiskControllerList: []string{
			"VirtualIDEController", "VirtualBusLogicController", "VirtualLsiLogicController",
			"VirtualLsiLogicSASController", "ParaVirtualSCSIController", "VirtualAHCIController", "VirtualNVMEController",
		},
		RecommendedSCSIController:  "VirtualLsiLogicController",
		RecommendedDiskController:  "VirtualLsiLogicController",
		RecommendedCdromController: "VirtualIDEController",
		SupportedEthernetCard:      []string{"VirtualE1000", "VirtualVmxnet3"},
		RecommendedEthernetCard:    "VirtualE1000",
		SupportedFirmware:          []string{"bios", "efi"},
		RecommendedFirmware:        "bios",
	}
	switch {
	case strings.HasPrefix(id, "win3"):
		d.SupportedDiskControllerList = []string{"VirtualIDEController", "VirtualBusLogicController"}
		d.RecommendedSCSIController = "VirtualBusLogicController"
		d.RecommendedDiskController = "VirtualIDEController"
		d.SupportedFirmware = []string{"bios"}
	case strings.HasPrefix(id, "windows9"):
		d.RecommendedSCSIController = "VirtualLsiLogicSASController"
		d.RecommendedDiskController = "VirtualLsiLogicSASController"
		d.RecommendedFirmware = "efi"
	case strings.HasPrefix(id, "darwin"):
		d.SupportedFirmware, d.RecommendedFirmware = []string{"efi"}, "efi"
	}
	return d
}
