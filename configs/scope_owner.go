package configs

// scopeOwner checks what belongs to verify: owner.
func (v *validator) scopeOwner(key string, s Scope) {
	if s.Verify != "" && s.Unrestricted {
		v.at(key+".verify", "there is nothing to verify in an unrestricted scope", "remove it")
	}
	if s.MaxOwnerKeys != 0 && s.Verify == "" {
		v.at(key+".max_owner_keys", "a bound for owner keys without verify: owner", "write verify: owner beside it, or remove it")
	}
}
