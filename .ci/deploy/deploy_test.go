package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var shipped = filepath.Join("..", "..", "configs", "deploy")

func judged(t *testing.T, dir string) []string {
	t.Helper()
	f := &faults{file: "deploy"}
	dockerfile(filepath.Join(dir, "Dockerfile"), f)
	manifests(filepath.Join(dir, "kubernetes"), f)
	compose(filepath.Join(dir, "compose", "compose.yaml"), f)
	return f.found
}

// What is shipped passes, and each of these changes to it is noticed.
func TestFaultsAreNoticed(t *testing.T) {
	if found := judged(t, shipped); len(found) > 0 {
		t.Fatal(found)
	}
	for _, c := range []struct{ file, old, new, fault string }{
		{"Dockerfile", "USER 65532:65532", "USER root", "USER"},
		{"Dockerfile", "FROM scratch", "FROM debian:12", "built on debian:12"},
		{"Dockerfile", "FROM golang:1.26-bookworm", "FROM golang", "which version"},
		{"Dockerfile", `CMD ["serve"]`, `CMD serve`, "exec form"},
		{"Dockerfile", "STOPSIGNAL SIGTERM", "STOPSIGNALS SIGTERM", "STOPSIGNALS"},
		{"Dockerfile", "STOPSIGNAL SIGTERM", "ENV VAULT_TOKEN=x", "VAULT_TOKEN"},
		{"kubernetes/statefulset.yaml", "replicas: 1", "replicas: 2", "one replica"},
		{"kubernetes/statefulset.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRootFilesystem"},
		{"kubernetes/statefulset.yaml", "enableServiceLinks", "enableServiceLink", "unknown field"},
		{"kubernetes/statefulset.yaml", "ReadWriteOncePod", "ReadWriteMany", "two pods"},
		{"kubernetes/statefulset.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"},
		{"kubernetes/namespace.yaml", "enforce: restricted", "enforce: baseline", "not enforced"},
		{"kubernetes/networkpolicy.yaml", "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "both directions"},
		{"compose/compose.yaml", "127.0.0.1:9000\"]", "0.0.0.0:9000\"]", "listens for everybody"},
		{"compose/compose.yaml", "cap_drop: [ALL]", "cap_drop: [NET_RAW]", "cap_drop"},
		{"compose/compose.yaml", "busybox:1.37", "busybox:latest", "which version"},
		{"compose/compose.yaml", "MINIO_ROOT_PASSWORD_FILE: /keys/store-password", "MINIO_ROOT_PASSWORD: minioadmin", "MINIO_ROOT_PASSWORD"},
		{"compose/compose.yaml", "condition: service_healthy", "condition: service_happy", "service_happy"},
		{"compose/compose.yaml", "./keys.sh:", "./key.sh:", "key.sh is not there"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			root := t.TempDir() // as deep as the real one, for what is mounted from docs
			dir := filepath.Join(root, "configs", "deploy")
			if err := os.CopyFS(dir, os.DirFS(shipped)); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(root, "docs"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "docs", "vault-policy.hcl"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, filepath.FromSlash(c.file))
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.ReplaceAll(string(text), c.old, c.new)
			if changed == string(text) {
				t.Fatalf("%s has no %q", c.file, c.old)
			}
			if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			if found := strings.Join(judged(t, dir), "\n"); !strings.Contains(found, c.fault) {
				t.Errorf("%s: %s in place of %s: %s", c.file, c.new, c.old, found)
			}
		})
	}
}
