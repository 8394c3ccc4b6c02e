// What this browser remembers from one visit to the next: a JSON value per name, under `ftlab.NAME`
// in localStorage. In a browser that keeps nothing, everything is as at the first visit.
window.ft ??= {};
window.ft.kept = {
  get(name) {
    try {
      return JSON.parse(localStorage.getItem(`ftlab.${name}`));
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`ftlab.${name}`, JSON.stringify(value));
    } catch {
      // Private windows and full stores: the next visit starts anew.
    }
  },
  remove(name) {
    try {
      localStorage.removeItem(`ftlab.${name}`);
    } catch {
      // as above
    }
  },
};
