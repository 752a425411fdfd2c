package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const folderPrefix = "/folder/"

// place is where a path of a datastore, such as "[ds] one/1/one-1.vmdk", lies in the file system.
func place(name string) (*simulator.Datastore, string, types.BaseMethodFault) {
	var p object.DatastorePath
	if !p.FromString(name) {
		return nil, "", &types.InvalidDatastorePath{DatastorePath: name}
	}
	for _, entity := range simulator.Map.All("Datastore") {
		if d := entity.(*simulator.Datastore); d.Name == p.Datastore {
			return d, path.Join(d.Info.GetDatastoreInfo().Url, path.Clean("/"+p.Path)), nil
		}
	}
	return nil, "", &types.InvalidDatastore{Name: p.Datastore}
}

func fileFault(name string, err error) types.BaseMethodFault {
	file := types.FileFault{File: name}
	switch {
	case os.IsNotExist(err):
		return &types.FileNotFound{FileFault: file}
	case os.IsExist(err):
		return &types.FileAlreadyExists{FileFault: file}
	default:
		log.Printf("%s: %s", name, err)
		return &types.CannotCreateFile{FileFault: file}
	}
}

// disk is a virtual disk: a descriptor with one extent, or a single file as VMware's hosted products make it.
type disk struct {
	file     string
	flat     string // empty for a single file
	key      string // of its device, in a lease
	capacity int64
	thin     bool
	adapter  string
}

var (
	extentLine  = regexp.MustCompile(`(?m)^(?:RW|RDONLY) ([0-9]+) [A-Z]+ "([^"]+)"`)
	adapterLine = regexp.MustCompile(`(?m)^ddb.adapterType *= *"([^"]*)"`)
)

func readDisk(file string) (*disk, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(bufio.NewReader(f), 64*1024))
	if err != nil {
		return nil, err
	}
	if len(head) > 512 && string(head[:4]) == "KDMV" {
		return &disk{file: file, capacity: int64(binary.LittleEndian.Uint64(head[12:])) * 512}, nil
	}
	extent := extentLine.FindSubmatch(head)
	if extent == nil {
		return nil, fmt.Errorf("no disk")
	}
	sectors, _ := strconv.ParseInt(string(extent[1]), 10, 64)
	d := &disk{file: file, flat: path.Join(path.Dir(file), string(extent[2])), capacity: sectors * 512}
	d.thin = strings.Contains(string(head), `ddb.thinProvisioned = "1"`)
	if adapter := adapterLine.FindSubmatch(head); adapter != nil {
		d.adapter = string(adapter[1])
	}
	return d, nil
}

func flatName(file string) string { return strings.TrimSuffix(file, ".vmdk") + "-flat.vmdk" }

// describe writes the descriptor, as ESXi does for a disk on VMFS.
func (d *disk) describe() error {
	thin := ""
	if d.thin {
		thin = "ddb.thinProvisioned = \"1\"\n"
	}
	adapter := strings.ToLower(d.adapter)
	if adapter == "" {
		adapter = "lsilogic"
	}
	return os.WriteFile(d.file, []byte(fmt.Sprintf("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\n"+
		"CID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n# Extent description\nRW %d VMFS \"%s\"\n\n"+
		"# The Disk Data Base\n#DDB\n\nddb.adapterType = \"%s\"\n%sddb.virtualHWVersion = \"13\"\n",
		d.capacity/512, path.Base(d.flat), adapter, thin)), 0600)
}

// make writes descriptor and content; the content of source, or nothing.
func (d *disk) make(source *disk) error {
	d.flat = flatName(d.file)
	if source != nil {
		format, from := "raw", source.flat
		if from == "" {
			format, from = "vmdk", source.file
		}
		if err := convert("-f", format, "-O", "raw", from, d.flat); err != nil {
			return err
		}
	} else if f, err := os.Create(d.flat); err != nil {
		return err
	} else {
		_ = f.Close()
	}
	if err := os.Truncate(d.flat, d.capacity); err != nil {
		return err
	}
	return d.describe()
}

func (d *disk) remove() error {
	if d.flat != "" {
		if err := os.Remove(d.flat); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return os.Remove(d.file)
}

func convert(arguments ...string) error {
	output, err := exec.Command("qemu-img", append([]string{"convert"}, arguments...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img: %s", output)
	}
	return nil
}

// folder is /folder: unlike the library's it asks for a session, and has the faults that tests want.
func (s *server) folder(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	each := s.control.record(&call{Kind: "folder", Method: r.Method, Object: strings.TrimPrefix(r.URL.Path, folderPrefix)})
	if !s.signedIn(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "no session", http.StatusUnauthorized)
		return
	}
	ds, file, fault := place("[" + query.Get("dsName") + "] " + each.Object)
	dc := simulator.Map.Any("Datacenter").(*simulator.Datacenter)
	if fault != nil || strings.TrimPrefix(query.Get("dcPath"), "/") != datacenterPath(dc) {
		http.NotFound(w, r)
		return
	}
	switch r.Method {
	case http.MethodPut:
		s.put(w, r, ds, file, each)
	case http.MethodGet, http.MethodHead:
		f, err := os.Open(file)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || info.IsDir() {
			http.Error(w, "a directory", http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", info.ModTime(), &seekable{s.control.transfer(r, f, each), f})
	default:
		http.Error(w, "not here", http.StatusNotImplemented)
	}
}

// seekable is a file whose reads are counted.
type seekable struct {
	*transfer
	io.Seeker
}

func (s *server) put(w http.ResponseWriter, r *http.Request, ds *simulator.Datastore, file string, each *call) {
	status := http.StatusCreated
	if _, err := os.Stat(file); err == nil {
		status = http.StatusOK
	}
	f, err := os.Create(file)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	var body io.Reader = s.control.transfer(r, r.Body, each)
	if room, full := s.control.limit("datastore-full"); full && r.ContentLength > room {
		_, _ = io.CopyN(f, body, room)
		// A real one may well do this: whoever trusts the answer has lost the end of the file.
		if s.control.option("datastore-full", "silent") == "yes" {
			_, _ = io.Copy(io.Discard, body)
			w.WriteHeader(status)
			return
		}
		http.Error(w, "no space left", http.StatusInternalServerError)
		return
	}
	if _, err = io.Copy(f, body); err == nil {
		w.WriteHeader(status)
	}
}
