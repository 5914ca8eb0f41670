package configs

import (
	"path"
	"strings"
)

// Audit is what becomes of the audit log beside being written.
type Audit struct {
	Checkpoints *Checkpoints `yaml:"checkpoints" jsonschema_description:"Signed checkpoints of the audit log, kept away from it, so that a cut tail or a rewritten log is found. Written at the end of every command that adds to the log."`
	KeepDays    int          `yaml:"keep_days" jsonschema:"minimum=1,maximum=36500" jsonschema_description:"tablexport audit expire removes files of the log whose entries are all older. Needs checkpoints. Default: nothing is removed."`
}

// Checkpoints says where signed checkpoints of the audit log go.
type Checkpoints struct {
	Store       string      `yaml:"store" jsonschema:"required" jsonschema_description:"Name of the store; best one that the account which runs jobs cannot delete from."`
	Path        string      `yaml:"path" jsonschema:"default=audit-checkpoints" jsonschema_description:"Where in the store."`
	KeyFile     string      `yaml:"key_file" jsonschema:"required" jsonschema_description:"The Ed25519 key that signs, mode 0600; make one with: tablexport audit keygen FILE."`
	TrustedKeys []string    `yaml:"trusted_keys" jsonschema_description:"Files with public keys whose signatures count too: those of earlier keys."`
	Lock        *ObjectLock `yaml:"lock" jsonschema_description:"S3 Object Lock for the checkpoints; the bucket must have it enabled."`
}

// ObjectLock is S3 Object Lock of new objects.
type ObjectLock struct {
	Mode string `yaml:"mode" jsonschema:"required,enum=governance,enum=compliance" jsonschema_description:"compliance: nobody can delete them before their time; governance: those with a special permission can."`
	Days int    `yaml:"days" jsonschema:"required,minimum=1,maximum=36500" jsonschema_description:"How long."`
}

func (v *validator) audit() {
	c := v.Audit.Checkpoints
	if c == nil {
		if v.Audit.KeepDays > 0 {
			v.at("audit.keep_days", "nothing vouches for what would be removed", "add checkpoints: beside it, or leave keep_days out")
		}
		return
	}
	const key = "audit.checkpoints"
	v.reference(key+".store", c.Store, "store", sortedKeys(v.Stores))
	if c.Path != "" && !cleanPath(c.Path) {
		v.at(key+".path", "not a clean path", "write it like audit-checkpoints: relative, with slashes, without .. or spaces")
	}
	s, known := v.Stores[c.Store]
	if c.Lock != nil && known && s.S3 == nil {
		v.at(key+".lock", "only an s3 store has object lock", "name an s3 store, or leave lock out")
	}
	if !known {
		return
	}
	at := c.Path
	setDefault(&at, "audit-checkpoints")
	place := v.place(Job{Store: c.Store, Path: at})
	for _, name := range sortedKeys(v.Jobs) {
		if j := v.Jobs[name]; j.Path != "" {
			if p := v.place(j); path.Clean(p) == path.Clean(place) || strings.HasPrefix(place, p+"/") || strings.HasPrefix(p, place+"/") {
				v.at(key+".path", "inside the dataset of job \""+name+"\", or around it", "give the checkpoints a path of their own")
				return
			}
		}
	}
}
