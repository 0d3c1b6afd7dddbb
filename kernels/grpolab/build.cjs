// The library's build as a kernel sees it: whether it is there, and what of it is loaded.
const { existsSync, statSync } = require('node:fs');
const path = require('node:path');

class Build {
  /** @param root  the project's directory */
  constructor(root) {
    this.root = root;
    this.dist = path.join(root, 'dist') + path.sep;
    this.entry = path.join(this.dist, 'index.js');
    this.loaded = this.version();
  }

  /** Changes whenever the library was built again. */
  version() {
    const times = ['index.js', '.stamp'].map(
      (name) => statSync(path.join(this.dist, name), { throwIfNoEntry: false })?.mtimeMs ?? 0,
    );
    return times.join();
  }

  /** @returns what is missing, in one sentence, or null */
  problem() {
    if (existsSync(this.entry)) return null;
    return 'the library is not built, or is being built right now. Run `npm run setup`, then run the cell again.';
  }

  /**
   * Forgets the code of a build that was replaced, and puts the new one's namespaces in place of the old ones among the
   * variables that cells have imported. Objects that old code made stay as they are.
   *
   * @param variables  the notebook's, by name
   * @returns whether there was a new build
   */
  refresh(variables) {
    const version = this.version();
    if (version === this.loaded) return false;
    const old = (this.replaced ??= require.cache[this.entry]?.exports);
    for (const file of Object.keys(require.cache)) if (file.startsWith(this.dist)) delete require.cache[file];
    // Where the build is not whole yet it throws, and the next cell tries again.
    const fresh = old && require(this.entry);
    this.loaded = version;
    this.replaced = undefined;
    if (old === undefined) return false;
    const names = new Map(Object.keys(old).map((name) => [old[name], name]));
    for (const [variable, value] of Object.entries(variables)) {
      if (value === old) variables[variable] = fresh;
      else if (names.has(value)) variables[variable] = fresh[names.get(value)];
    }
    return true;
  }
}

module.exports = { Build };
