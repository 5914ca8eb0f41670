package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose loads the file as docker compose does: the schema of the Compose specification, anchors, and that names are there.
func compose(path string, f *faults) string {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true))
	if err != nil {
		f.add("%v", err)
		return ""
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		f.add("%v", err)
		return ""
	}
	for _, name := range project.ServiceNames() {
		service(project.Services[name], f)
	}
	for _, name := range []string{"vault", "store", "tablexport"} {
		_, there := project.Services[name]
		f.want(there, "there is no service %s", name)
	}
	return fmt.Sprintf("%d services, %d volumes", len(project.Services), len(project.Volumes))
}

func service(s types.ServiceConfig, f *faults) {
	f.want(slices.Contains(s.SecurityOpt, "no-new-privileges:true"), "%s: no-new-privileges is missing", s.Name)
	f.want(!s.Privileged, "%s is privileged", s.Name)
	if _, tag, ok := strings.Cut(s.Image, ":"); !ok || tag == "latest" {
		f.add("%s: image %s: write which version", s.Name, s.Image)
	}
	// On the host's network a published port or an address other than loopback would be open to the neighbourhood.
	f.want(s.NetworkMode == "host" || s.NetworkMode == "" && len(s.Ports) == 0, "%s: not on loopback", s.Name)
	for _, word := range append(slices.Clone(s.Command), s.Entrypoint...) {
		f.want(!strings.Contains(word, "0.0.0.0") && !strings.Contains(word, "[::]"), "%s listens for everybody", s.Name)
	}
	for key, value := range s.Environment {
		f.want(!secretName(key) || value == nil, "%s: %s: it is in the file, and in docker inspect", s.Name, key)
	}
	for _, v := range s.Volumes {
		if v.Type != types.VolumeTypeBind {
			continue
		}
		_, err := os.Stat(v.Source)
		f.want(err == nil, "%s: %s is not there", s.Name, filepath.Base(v.Source))
		f.want(v.ReadOnly, "%s: %s can be written", s.Name, filepath.Base(v.Source))
	}
	if strings.HasPrefix(s.Image, "tablexport") {
		f.want(s.ReadOnly && slices.Contains(s.CapDrop, "ALL"), "%s: read_only and cap_drop: [ALL] are missing", s.Name)
		uid, _, _ := strings.Cut(s.User, ":")
		f.want(uid != "" && uid != "0" && uid != "root", "%s runs as root", s.Name)
	}
}
