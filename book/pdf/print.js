// Puts all pages of the built book, in the order of its sidebar, on this one, which is then printed.
const root = new URL(".", location);

/** The name of a page within the book, in letters that an id may have. */
const slug = (path) => path.replace(/\.html$/, "").replace(/[^\w]+/g, "-");

const page = async (path) => new DOMParser().parseFromString(await (await fetch(path)).text(), "text/html");

const front = await page("index.html");
const sidebar = front.querySelector("nav.bd-links");
const paths = ["index.html", ...[...sidebar.querySelectorAll("a.internal")].map((link) => link.getAttribute("href"))];
const places = new Set(paths.map((path) => new URL(path, root).pathname));

/** The article of one page as a chapter: its ids are made unique, links lead within this document or to other hosts. */
function chapter(path, source) {
  const here = new URL(path, root);
  const name = slug(path);
  const article = document.adoptNode(source.querySelector("article.bd-article"));
  article.id = name;
  for (const element of article.querySelectorAll("[id]")) element.id = `${name}--${element.id}`;
  for (const link of article.querySelectorAll("a[href]")) {
    const target = new URL(link.getAttribute("href"), here);
    if (target.origin !== root.origin) continue;
    const chapterOfTarget = slug(target.pathname.slice(root.pathname.length));
    if (places.has(target.pathname)) link.href = `#${chapterOfTarget}${target.hash.replace("#", "--")}`;
    else link.replaceWith(...link.childNodes); // a file to download, the index: not in print
  }
  for (const image of article.querySelectorAll("img")) image.src = new URL(image.getAttribute("src"), here);
  for (const element of article.querySelectorAll(".headerlink, .toctree-wrapper, script")) element.remove();
  // What has no colour of its own needs no element: thousands fewer in the PDF.
  for (const plain of article.querySelectorAll("pre span:is(.n, .p, .w)")) plain.replaceWith(...plain.childNodes);
  for (const fold of article.querySelectorAll("details")) fold.open = true;
  for (const figure of article.querySelectorAll("figure[data-frames]")) {
    // A slider shows the frame that it starts with, and what it is set to.
    figure.removeAttribute("data-frames");
    figure.querySelector("input").remove();
    figure.querySelector("label").style.display = "block";
  }
  for (const frame of article.querySelectorAll("iframe")) {
    const picture = Object.assign(new Image(), { src: new URL("_static/demo.png", root), alt: frame.title });
    frame.replaceWith(picture);
  }
  return article;
}

/** The contents: the sidebar's. `window.number` puts in the pages. */
function contents() {
  const section = document.createElement("section");
  section.className = "contents";
  section.innerHTML = "<h1>Contents</h1>";
  for (const entry of sidebar.querySelectorAll(".caption, a.internal")) {
    const line = document.createElement(entry.matches("a") ? "a" : "h2");
    line.textContent = entry.textContent;
    if (line.matches("a")) {
      line.href = `#${slug(entry.getAttribute("href"))}`;
      line.className = entry.closest("details") ? "inner" : "";
      line.append(document.createElement("span"));
    }
    section.append(line);
  }
  return section;
}

function addStyles(...hrefs) {
  const loaded = hrefs.map((href) => new Promise((resolve, reject) => {
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href, onload: resolve, onerror: reject });
    document.head.append(link);
  }));
  return Promise.all(loaded);
}

/** Fills this page. Gives what is wrong with the result, one line each. */
window.fill = async () => {
  const styles = [...front.querySelectorAll("link[rel=stylesheet]")].map((link) => link.getAttribute("href"));
  await addStyles(...styles, "pdf/print.css");
  const sources = await Promise.all(paths.map(page));
  const chapters = sources.map((source, i) => chapter(paths[i], source));
  document.body.replaceChildren(chapters[0], contents(), ...chapters.slice(1));
  await MathJax.startup.promise;
  await MathJax.typesetPromise();
  const images = [...document.images];
  await Promise.allSettled(images.map((image) => image.decode()));
  await document.fonts.ready;
  const links = [...document.querySelectorAll('a[href^="#"]')];
  return [
    ...links.filter(({ hash }) => !document.getElementById(hash.slice(1))).map(({ hash }) => `a link to ${hash} leads nowhere`),
    ...images.filter(({ naturalWidth }) => !naturalWidth).map(({ alt }) => `a picture is missing: ${alt}`),
    ...[...document.querySelectorAll("mjx-merror")].map(({ title }) => `not a formula: ${title}`),
  ];
};

/** Writes the page of each chapter into the contents. `pages`: the numbers by the chapters' ids. */
window.number = (pages) => {
  for (const line of document.querySelectorAll(".contents a")) line.lastChild.textContent = pages[line.hash.slice(1)];
};
