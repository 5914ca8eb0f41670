package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// kustomization is what of a kustomization.yaml is used here; a key beyond it is refused.
type kustomization struct {
	meta.TypeMeta      `json:",inline"`
	Namespace          string   `json:"namespace"`
	Resources          []string `json:"resources"`
	ConfigMapGenerator []struct {
		Name  string   `json:"name"`
		Files []string `json:"files"`
	} `json:"configMapGenerator"`
}

// manifests decodes every resource into the types of Kubernetes itself, where an unknown or doubled key is an error, as it is with
// kubectl apply --validate=strict.
func manifests(dir string, f *faults) string {
	var k kustomization
	if !decode(filepath.Join(dir, "kustomization.yaml"), &k, f) {
		return ""
	}
	configs := map[string]bool{}
	for _, g := range k.ConfigMapGenerator {
		configs[g.Name] = true
		for _, name := range g.Files {
			_, err := os.Stat(filepath.Join(dir, name))
			f.want(err == nil, "configMapGenerator: %s is not there", name)
		}
	}
	kinds := map[string]int{}
	accounts := map[string]bool{}
	var sets []apps.StatefulSet
	for _, name := range k.Resources {
		path := filepath.Join(dir, name)
		var what meta.TypeMeta
		text, err := os.ReadFile(path)
		if err == nil {
			err = yaml.Unmarshal(text, &what)
		}
		if err != nil {
			f.add("%s: %v", name, err)
			continue
		}
		kinds[what.Kind]++
		var named meta.ObjectMeta
		switch what.APIVersion + " " + what.Kind {
		case "v1 Namespace":
			var v core.Namespace
			decode(path, &v, f)
			named = v.ObjectMeta
			f.want(v.Labels["pod-security.kubernetes.io/enforce"] == "restricted", "%s: pod security is not enforced", name)
		case "v1 ServiceAccount":
			var v core.ServiceAccount
			decode(path, &v, f)
			named, accounts[v.Name] = v.ObjectMeta, true
		case "networking.k8s.io/v1 NetworkPolicy":
			var v networking.NetworkPolicy
			decode(path, &v, f)
			named = v.ObjectMeta
			f.want(len(v.Spec.PolicyTypes) == 2, "%s: both directions must be named", name)
		case "apps/v1 StatefulSet":
			var v apps.StatefulSet
			decode(path, &v, f)
			named, sets = v.ObjectMeta, append(sets, v)
		default:
			f.add("%s: %s %s is not known here", name, what.APIVersion, what.Kind)
		}
		for _, fault := range validation.IsDNS1123Subdomain(named.Name) {
			f.add("%s: metadata.name: %s", name, fault)
		}
	}
	for _, s := range sets {
		stateful(s, configs, accounts, f)
	}
	for _, kind := range []string{"Namespace", "ServiceAccount", "NetworkPolicy", "StatefulSet"} {
		f.want(kinds[kind] == 1, "%d times %s", kinds[kind], kind)
	}
	return fmt.Sprintf("%d resources", len(k.Resources))
}

func decode(path string, v any, f *faults) bool {
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.UnmarshalStrict(text, v)
	}
	if err != nil {
		f.add("%s: %v", filepath.Base(path), err)
	}
	return err == nil
}

// stateful asks for what the "restricted" pod security standard and one writer ask for.
func stateful(s apps.StatefulSet, configs, accounts map[string]bool, f *faults) {
	f.want(s.Spec.Replicas != nil && *s.Spec.Replicas == 1, "one replica, and never two")
	f.want(meta.FormatLabelSelector(s.Spec.Selector) == meta.FormatLabelSelector(&meta.LabelSelector{MatchLabels: s.Spec.Template.Labels}), "the selector is not the template's")
	pod := s.Spec.Template.Spec
	f.want(accounts[pod.ServiceAccountName], "service account %q is not there", pod.ServiceAccountName)
	f.want(pod.AutomountServiceAccountToken != nil && !*pod.AutomountServiceAccountToken, "the cluster's own token is mounted")
	f.want(pod.TerminationGracePeriodSeconds != nil && *pod.TerminationGracePeriodSeconds > 120, "the pod is killed before serve.drain is over")
	sc := pod.SecurityContext
	f.want(sc != nil && sc.RunAsNonRoot != nil && *sc.RunAsNonRoot, "runAsNonRoot is missing")
	f.want(sc != nil && sc.SeccompProfile != nil && sc.SeccompProfile.Type == core.SeccompProfileTypeRuntimeDefault, "seccompProfile is missing")
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
		f.want(v.HostPath == nil, "volume %s is of the host", v.Name)
		f.want(v.ConfigMap == nil || configs[v.ConfigMap.Name], "volume %s: its config map is not generated", v.Name)
	}
	for _, c := range s.Spec.VolumeClaimTemplates {
		volumes[c.Name] = true
		f.want(slices.Equal(c.Spec.AccessModes, []core.PersistentVolumeAccessMode{core.ReadWriteOncePod}), "volume %s can be mounted by two pods", c.Name)
	}
	for _, c := range pod.Containers {
		sc := c.SecurityContext
		f.want(sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem, "%s: readOnlyRootFilesystem is missing", c.Name)
		f.want(sc != nil && sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation, "%s: allowPrivilegeEscalation is not false", c.Name)
		f.want(sc != nil && sc.Capabilities != nil && slices.Equal(sc.Capabilities.Drop, []core.Capability{"ALL"}) && len(sc.Capabilities.Add) == 0, "%s: capabilities are not dropped", c.Name)
		f.want(c.LivenessProbe != nil && c.ReadinessProbe != nil && c.StartupProbe != nil, "%s: a probe is missing", c.Name)
		f.want(!c.Resources.Limits.Memory().IsZero() && !c.Resources.Requests.Memory().IsZero(), "%s: its memory is not bounded", c.Name)
		for _, m := range c.VolumeMounts {
			f.want(volumes[m.Name], "%s: volume %s is not there", c.Name, m.Name)
		}
		for _, e := range c.Env {
			f.want(!secretName(e.Name), "%s: %s: secrets are mounted as files", c.Name, e.Name)
		}
	}
}
