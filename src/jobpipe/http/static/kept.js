// What a browser keeps between two looks. Its storage may be forbidden: then a choice holds for this page alone.

export function kept(store, name) {
  try {
    return globalThis[store].getItem(`jobpipe.${name}`);
  } catch {
    return null;
  }
}

// Null forgets it.
export function keep(store, name, value) {
  try {
    if (value === null) globalThis[store].removeItem(`jobpipe.${name}`);
    else globalThis[store].setItem(`jobpipe.${name}`, value);
  } catch {
    // Said above.
  }
}
