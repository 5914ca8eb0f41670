package configs

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"strings"
)

// destination is where a job publishes, whatever its store is called.
type destination struct {
	job, store string
	place      string // comparable: equal places are one directory, and a place with a "/" behind it begins all that lies in it
}

// destinations refuses two jobs that would publish into one another, be it through two stores that lie in one another. What only
// the file system or the network knows (symbolic links, two names of one server) is not seen here; a run refuses a dataset that
// another job has published.
func (v *validator) destinations() {
	var known []destination
	for _, name := range sortedKeys(v.Jobs) {
		j := v.Jobs[name]
		if j.Path == "" {
			continue
		}
		d := destination{name, j.Store, v.place(j)}
		for _, other := range known {
			if d.place != other.place && !strings.HasPrefix(d.place, other.place+"/") && !strings.HasPrefix(other.place, d.place+"/") {
				continue
			}
			text := fmt.Sprintf("inside the dataset of job %q, or around it", other.job)
			if other.store != d.store {
				text += fmt.Sprintf(" (the stores %s and %s overlap)", other.store, d.store)
			}
			v.at("jobs."+name+".path", text, "give every job a path of its own")
		}
		known = append(known, d)
	}
}

// place resolves a job's store and path. Local paths are compared without regard to case, as some file systems do.
func (v *validator) place(j Job) string {
	s := v.Stores[j.Store]
	switch {
	case s.File != nil && s.S3 == nil && s.File.Path != "":
		dir := filepath.ToSlash(filepath.Clean(v.Resolve(s.File.Path)))
		return "file:" + strings.ToLower(path.Join(dir, j.Path))
	case s.S3 != nil && s.File == nil && s.S3.Bucket != "":
		return "s3:" + endpoint(s.S3.Endpoint) + ":" + path.Join(s.S3.Bucket, s.S3.Prefix, j.Path)
	}
	return "store:" + j.Store + ":" + path.Clean(j.Path) // the store's own problem is reported already
}

// endpoint is host:port of an S3 server; "" is Amazon's, where a bucket's name is one bucket in every region.
func endpoint(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return ""
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if strings.HasSuffix(host, ".amazonaws.com") {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(host, port)
}
